"""Where one run stands, as its event log tells; the log may be read while it grows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_cl.records.events import EventLog

SHOWN_ACCURACIES = 5


@dataclass
class UnderWay:
    """Where one run stands: tasks count from 0, ``share`` is that of the current fit in [0, 1].

    ``log`` is what its events come from, and how far it was read.
    ``rows`` are the rows of the accuracy matrix, by the task that was learned last.
    ``began`` is when it was first seen at work in this session, at ``began_at`` of its whole way;
    ``started``, at ``started_at`` of the way, and ``latest`` are times from the log: when its last
    session began, and the last event, on the clock of the machine that wrote it.
    """

    log: EventLog
    tasks: int = 0
    task: int = 0
    share: float = 0.0
    epoch: int = 0
    epochs: int = 0
    accuracies: list[float | None] = field(default_factory=list)
    rows: dict[int, list[float | None]] = field(default_factory=dict)
    began: float | None = None
    began_at: float = 0.0
    started: float | None = None
    started_at: float = 0.0
    latest: float = 0.0
    status: str | None = None

    @property
    def way(self) -> float:
        """The share of the run that is done, in [0, 1]; tasks are taken to be equally long."""
        if self.status is not None:
            return 1.0
        return min(1.0, (self.task + self.share) / self.tasks) if self.tasks else 0.0

    def take(self, event: dict[str, Any]) -> None:
        """Goes on to where ``event`` says the run is; a log may hold anything."""
        kind, moment = event["event"], event.get("time")
        if isinstance(moment, int | float):
            self.latest = float(moment)
        if kind == "run_started":
            self.started = self.latest
            self.tasks = _whole(event, "tasks")
            self.started_at = self.way
        elif kind == "task_started":
            self.task, self.share = _whole(event, "task"), 0.0
            self.epoch = self.epochs = 0
        elif kind == "fit_started":
            self.share, self.epoch, self.epochs = 0.0, 0, _whole(event, "epochs")
        elif kind == "epoch":
            step, steps = _whole(event, "step"), _whole(event, "steps")
            self.share = min(1.0, step / steps) if steps else 0.0
            self.epochs = _whole(event, "epochs")
            # Counted from the steps: the first epoch reads 1 once it is over.
            self.epoch = round(self.share * self.epochs)
        elif kind == "evaluated":
            found = event.get("accuracies")
            self.accuracies = [_fraction(x) for x in found] if isinstance(found, list) else []
            self.rows[_whole(event, "task")] = self.accuracies
            self.task, self.share = _whole(event, "task") + 1, 0.0

    def remaining_by_log(self) -> float | None:
        """Seconds to go at the pace of the log's last session; None while that cannot be told."""
        if self.started is None or self.way <= self.started_at or self.latest <= self.started:
            return None
        gone = self.way - self.started_at
        return (self.latest - self.started) * (1 - self.way) / gone

    def remaining(self, now: float) -> float | None:
        """Seconds to go at the pace so far; None while that cannot be told."""
        if self.began is None or self.way <= self.began_at:
            return None
        return max(0.0, (now - self.began) * (1 - self.way) / (self.way - self.began_at))


def _whole(event: dict[str, Any], key: str) -> int:
    value = event.get(key)
    return value if type(value) is int and value >= 0 else 0


def _fraction(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and 0 <= value <= 1 else None


def mean_of(accuracies: Sequence[float | None]) -> float | None:
    known = [x for x in accuracies if x is not None]
    return sum(known) / len(known) if known else None


def told_accuracies(accuracies: Sequence[float | None]) -> str:
    """The latest accuracies in %, oldest first, and the mean of all that were measured."""
    mean = mean_of(accuracies)
    if mean is None:
        return ""
    known = [f"{100 * x:.1f}" for x in accuracies if x is not None]
    cut = "… " if len(known) > SHOWN_ACCURACIES else ""
    return f"{cut}{' '.join(known[-SHOWN_ACCURACIES:])} (mean {100 * mean:.1f})"
