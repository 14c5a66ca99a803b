"""Event logs handed on to a tracker: what a run said, in the order in which it said it.

A tracker is a ``Book`` that opens a ``Page`` for every run. Each lives in a package of its own, of
the extra ``trackers``, and is imported when it is asked for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lora_cl.errors import ConfigError
from lora_cl.records.events import EventLog
from lora_cl.records.folders import Notice, read_record, run_folders, unheard
from lora_cl.records.holder import is_held
from lora_cl.records.layout import LOCK
from lora_cl.report.aggregate import MEASURES
from lora_cl.report.reading import Run, check
from lora_cl.text import one_line

TRACKERS = ("tensorboard", "wandb", "mlflow")
MISSING = "{} is not installed: pip install 'lora-cl[trackers]'"
POLL_SECONDS = 1.0


class Page(Protocol):
    """Where one run is written down. ``step`` counts its epochs, ``moment`` is seconds of 1970."""

    def values(self, values: Mapping[str, float], step: int, moment: float) -> None: ...
    def close(self, run: Run, summary: Mapping[str, float]) -> None: ...


class Book(Protocol):
    """A tracker's place: a run that is in it already is not written again."""

    def has(self, run: Run) -> bool: ...
    def page(self, run: Run) -> Page: ...


@dataclass
class Track:
    """A run on its way into a page: ``read`` hands on what is new in its log."""

    folder: Path
    page: Page
    log: EventLog
    step: int = 0
    epochs: set[tuple[Any, Any, Any]] = field(default_factory=set)

    def read(self) -> None:
        for event in self.log.new():
            moment = float(event.get("time", 0.0))
            if event["event"] == "epoch":
                self._epoch(event, moment)
            elif event["event"] == "evaluated":
                self._evaluated(event, moment)

    def _epoch(self, event: Mapping[str, Any], moment: float) -> None:
        """The loss, once for each epoch: one that was done again after a kill says the same."""
        key = (event.get("task"), event.get("fit"), event.get("epoch"))
        loss = event.get("loss")
        if key in self.epochs or not isinstance(loss, int | float) or not math.isfinite(loss):
            return
        self.epochs.add(key)
        self.step += 1
        self.page.values({"loss": float(loss)}, self.step, moment)

    def _evaluated(self, event: Mapping[str, Any], moment: float) -> None:
        found = event.get("accuracies")
        if not isinstance(found, list):
            return
        known = {j: float(x) for j, x in enumerate(found) if isinstance(x, int | float)}
        values = {f"accuracy/task-{j:03d}": x for j, x in known.items()}
        if len(known) == len(found) > 0:
            values["accuracy/seen"] = sum(known.values()) / len(known)
        if values:
            self.page.values(values, self.step, moment)


def log_to(
    tracker: str,
    paths: Sequence[Path],
    place: Path,
    follow: bool = False,
    notice: Notice = unheard,
) -> tuple[int, int]:
    """Writes the runs below ``paths`` down in a tracker at ``place``: how many, and how many were
    there already.

    With ``follow`` goes on while somebody holds one of the runs, with runs that begin meanwhile.
    Raises ConfigError if the tracker's package is missing, ResultsError for a missing path.
    """
    book = open_book(tracker, place)
    tracks: dict[Path, Track] = {}
    skipped: set[Path] = set()
    while True:
        under_way = False
        for folder in run_folders(paths, notice):
            notice = unheard
            if folder in skipped:
                continue
            held = is_held(folder / LOCK)
            under_way |= held
            run = check(read_record(folder))
            if folder not in tracks:
                if book.has(run):
                    skipped.add(folder)
                    continue
                tracks[folder] = Track(folder, book.page(run), EventLog(folder))
            tracks[folder].read()
            if not held and (run.status != "unfinished" or not follow):
                tracks[folder].page.close(run, _summary(run))
                skipped.add(folder)
        if not follow or not under_way:
            break
        time.sleep(POLL_SECONDS)
    for folder, track in tracks.items():
        if folder not in skipped:
            track.page.close(check(read_record(folder)), {})
    return len(tracks), len(skipped - set(tracks))


def open_book(tracker: str, place: Path) -> Book:
    """The tracker's place. Raises ConfigError, which says what to install, if it is missing."""
    try:
        return _books()[tracker](place)
    except ModuleNotFoundError as error:
        raise ConfigError(MISSING.format(error.name or tracker)) from None


def _books() -> dict[str, Callable[[Path], Book]]:
    from lora_cl.report import trackers

    return {
        "tensorboard": trackers.TensorBoard,
        "wandb": trackers.WandB,
        "mlflow": trackers.MLflow,
    }


def name_of(run: Run) -> str:
    """What the run is called in a tracker."""
    return one_line(f"{run.label} seed {run.seed}")


def _summary(run: Run) -> dict[str, float]:
    """The measures of a run that is done."""
    return {name: value for name in MEASURES if (value := run.values.get(name)) is not None}
