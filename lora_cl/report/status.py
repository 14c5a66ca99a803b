"""What runs, what stands still, what is done or failed, and how long it will take."""

from __future__ import annotations

import io
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lora_cl.errors import ResultsError
from lora_cl.records.events import EventLog
from lora_cl.records.folders import Notice, read_record, run_folders, unheard
from lora_cl.records.holder import Process, holder, holding, is_held
from lora_cl.records.layout import LOCK
from lora_cl.report.reading import Run, check
from lora_cl.report.showing import LEAST_WIDTH, WIDTH
from lora_cl.report.underway import UnderWay, told_accuracies
from lora_cl.text import duration, one_line

RUNNING, STOPPED = "running", "stopped"
OPEN = (RUNNING, STOPPED)
MOST_SHOWN = 40
QUIET = 5.0
"""Seconds without an event, after which it is said: such a run computes long, or waits its turn."""


@dataclass(frozen=True)
class Standing:
    """Where a run stands: a status on record, or running (somebody holds it), or stopped."""

    run: Run
    state: UnderWay
    status: str
    by: str = ""
    process: Process | None = None

    @property
    def name(self) -> str:
        return one_line(f"{self.run.label} seed {self.run.seed}", limit=60)

    @property
    def silent(self) -> float:
        """Seconds since its last event."""
        return max(0.0, time.time() - self.state.latest) if self.state.latest else 0.0

    def waits_for(self, others: Sequence[Standing]) -> Standing | None:
        """The run of the same command that computes while this one waits for its turn."""
        if self.process is None or self.process.state != "S" or self.silent <= QUIET:
            return None
        for one in others:
            parent = one.process.parent if one.process and one.process.state == "R" else None
            if parent == self.process.parent:
                return one
        return None

    @property
    def left(self) -> float | None:
        """Seconds to go, of one that is running."""
        return self.state.remaining_by_log() if self.status == RUNNING else None


def standings(
    paths: Sequence[Path], known: dict[Path, Standing] | None = None, notice: Notice = unheard
) -> list[Standing]:
    """Every run below ``paths``. Those with a record are kept in ``known``, and not read again.

    Raises ResultsError where there is none.
    """
    known = {} if known is None else known
    found = []
    for folder in run_folders(paths, notice):
        one = known.get(folder) or standing(folder)
        if one.status not in OPEN:
            known[folder] = one
        found.append(one)
    if not found:
        raise ResultsError(
            f"no runs in {', '.join(map(str, paths))}; `lora-cl run CONFIG` makes some"
        )
    return found


def standing(folder: Path) -> Standing:
    """Where the run in ``folder`` stands."""
    run, state = check(read_record(folder)), UnderWay(EventLog(folder))
    if run.status != "unfinished":
        return Standing(run, state, run.status)
    for event in state.log.new():
        state.take(event)
    lock = folder / LOCK
    if is_held(lock):
        return Standing(run, state, RUNNING, holder(lock), holding(lock))
    return Standing(run, state, STOPPED)


def status_text(found: Sequence[Standing], width: int | None, color: bool) -> str:
    """A line for each experiment, one for each run that is not done, and the time left."""
    out = io.StringIO()
    console = Console(
        file=out,
        width=max(LEAST_WIDTH, width or WIDTH),
        force_terminal=color,
        color_system="standard" if color else None,
        legacy_windows=False,
    )
    experiments: dict[str, list[Standing]] = {}
    for one in found:
        experiments.setdefault(one.run.experiment, []).append(one)
    for name, runs in experiments.items():
        counts = Counter(one.status for one in runs)
        told = ", ".join(f"{number} {one_line(status)}" for status, number in counts.items())
        console.print(Text(f"{one_line(name)}: {told}", style="bold"), soft_wrap=True)
        going = [one for one in runs if one.status != "done"]
        going.sort(key=lambda one: (one.status != RUNNING, one.status != STOPPED))
        if going:
            console.print(_table(going[:MOST_SHOWN], found, console.width))
        if len(going) > MOST_SHOWN:
            console.print(Text(f"  and {len(going) - MOST_SHOWN} more", style="dim"))
    for line in _closing(found):
        console.print(Text(line), soft_wrap=True)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _table(going: Sequence[Standing], found: Sequence[Standing], width: int) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(16, width // 3))
    table.add_column(overflow="fold")
    for one in going:
        table.add_row(Text(f"  {one.name}"), Text(_told(one, found)))
    return table


def _told(one: Standing, found: Sequence[Standing]) -> str:
    state = one.state
    if one.status not in OPEN:
        return one_line(f"{one.status}: {one.run.reason}" if one.run.reason else one.status)
    parts = [one.status]
    if one.by and one.by != "another process":
        parts[0] += f" in {one.by}"
    if one.status == STOPPED and state.latest:
        parts[0] += f" {duration(one.silent)} ago"
    elif other := one.waits_for(found):
        assert other.process is not None
        parts.append(f"waiting for its turn after {other.name} in process {other.process.pid}")
    elif one.silent > QUIET:
        parts.append(f"quiet for {duration(one.silent)}")
    if state.tasks:
        parts.append(f"task {min(state.task + 1, state.tasks)} of {state.tasks}")
    if state.epochs:
        parts.append(f"epoch {state.epoch} of {state.epochs}")
    if one.left is not None:
        parts.append(f"about {duration(one.left)} left")
    accuracies = told_accuracies(state.accuracies)
    return ", ".join(parts) + (f"; accuracy {accuracies}" if accuracies else "")


def _closing(found: Sequence[Standing]) -> list[str]:
    """What can be said of all of them: the time left, and how a stopped one goes on."""
    lines = []
    lefts = [one.left for one in found if one.left is not None]
    if lefts:
        lines.append(f"those running: about {duration(max(lefts))} left at the pace so far")
    if any(one.status == STOPPED for one in found):
        lines.append("a stopped run goes on with the same `lora-cl run`")
    return lines
