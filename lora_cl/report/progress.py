"""The live view of many runs, fed by their event logs alone.

On a terminal a table of the running ones that redraws itself; elsewhere plain lines, one for each
finished run and, where it is asked for, each learned task. Nothing here starts a thread: the engine
may fork.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lora_cl.records.events import EventLog
from lora_cl.report.underway import UnderWay, mean_of, told_accuracies
from lora_cl.streams import patient
from lora_cl.text import duration, one_line

LEAST_ROWS = 3
MANY, SHARE = 100, 10
"""More runs than MANY are looked at again after SHARE times what the last look took."""


@dataclass(frozen=True)
class RunLabel:
    """Which run it is, and the folder whose event log tells how far it is."""

    experiment: str
    label: str
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        return one_line(f"{self.experiment} {self.label} seed {self.seed}", limit=60)


class Progress:
    """Shows how far ``runs`` are, from entering until leaving; a context manager.

    The engine calls ``poll`` a few times a second and ``finished`` once per run.
    ``console`` is where to, by default stderr; ``verbose``: there, a line for each learned task.
    """

    def __init__(
        self, runs: Sequence[RunLabel], console: Console | None = None, verbose: bool = False
    ) -> None:
        self.runs, self.verbose = list(runs), verbose
        self.console = console or _on_stderr()
        self.states = [UnderWay(EventLog(run.folder)) for run in runs]
        self.start = time.time()
        self._not_before = 0.0
        live = self.console.is_terminal and not self.console.is_dumb_terminal
        self._live = (
            Live(
                console=self.console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
                vertical_overflow="crop",
            )
            if live
            else None
        )
        # What an earlier session left in the logs tells where a run stands, and is no news.
        for index in range(len(self.runs)):
            self._read(index, news=False)

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()
        if kind is None and self.runs:
            self.say(self._summary())

    def poll(self) -> None:
        """Reads what is new in the event logs and shows it; never waits.

        The logs of thousands are looked at less often: else that would be most of the work.
        """
        begun = time.monotonic()
        if begun < self._not_before:
            return
        for index, state in enumerate(self.states):
            if state.status is None:
                self._read(index)
        if self._live:
            self._live.update(self._view(), refresh=True)
        if len(self.states) > MANY:
            self._not_before = begun + SHARE * (time.monotonic() - begun)

    def finished(self, index: int, status: str, message: str | None = None) -> None:
        """Run ``index`` came to an end with ``status``; ``message`` says why, if it failed."""
        if self.states[index].status is not None:
            return
        self._read(index)
        state = self.states[index]
        state.status = status
        ended = sum(other.status is not None for other in self.states)
        text = f"[{ended}/{len(self.runs)}] {self.runs[index].name}: {one_line(status)}"
        if state.began is not None and state.started is not None:
            text += f" after {duration(max(0.0, state.latest - state.started))}"
        mean = mean_of(state.accuracies)
        if status == "done" and mean is not None and state.task == state.tasks:
            text += f", average accuracy {100 * mean:.2f} %"
        if message:
            text += f": {one_line(message)}"
        if self._live is None or message:
            self.say(text)
        if self._live:
            self._live.update(self._view(), refresh=True)

    def _read(self, index: int, news: bool = True) -> None:
        state = self.states[index]
        size = state.log.size()
        if size < state.log.offset:
            # The log was begun anew, so the run was too.
            state = self.states[index] = UnderWay(EventLog(self.runs[index].folder))
        if size == state.log.offset:
            return
        found = False
        for event in state.log.new():
            found = True
            state.take(event)
            measured = event["event"] == "evaluated" and mean_of(state.accuracies) is not None
            if news and measured and self.verbose and self._live is None:
                self.say(
                    f"{self.runs[index].name}: task {state.task} of {state.tasks} learned, "
                    f"accuracy {told_accuracies(state.accuracies)}"
                )
        if news and found and state.began is None:
            state.began, state.began_at = time.time(), state.way

    def say(self, text: str) -> None:
        """A line of news, above the live view if there is one."""
        # A closed pipe or a full disk must not end a run for a line of progress.
        with contextlib.suppress(OSError, ValueError):
            if self._live:
                self.console.print(Text(text), soft_wrap=True)
            else:
                self.console.file.write(text + "\n")
                self.console.file.flush()

    def _view(self) -> Group:
        now = time.time()
        table = Table(box=None, padding=(0, 1), pad_edge=False)
        for header in ("run", "task", "epoch", "left", "accuracies, %"):
            table.add_column(Text(header, style="dim"), no_wrap=True, overflow="ellipsis")
        going = [
            (run, state)
            for run, state in zip(self.runs, self.states, strict=True)
            if state.status is None and state.began is not None
        ]
        room = max(LEAST_ROWS, self.console.height - 5)
        for run, state in going[:room]:
            left = state.remaining(now)
            table.add_row(
                Text(run.name),
                f"{min(state.task + 1, state.tasks)}/{state.tasks}" if state.tasks else "",
                f"{state.epoch}/{state.epochs}" if state.epochs else "",
                "" if left is None else duration(left),
                told_accuracies(state.accuracies),
            )
        parts: list[Table | Text] = [table] if going else []
        if len(going) > room:
            parts.append(Text(f"and {len(going) - room} more", style="dim"))
        return Group(*parts, self._overall(now))

    def _overall(self, now: float) -> Table:
        ended = Counter(state.status for state in self.states if state.status is not None)
        total = sum(ended.values())
        way = sum(state.way for state in self.states)
        text = f"{total} of {len(self.runs)} runs"
        others = [
            f"{number} {one_line(status)}" for status, number in ended.items() if status != "done"
        ]
        text += f" ({', '.join(others)})" if others else ""
        text += f", {duration(max(0.0, now - self.start))}"
        left = self._remaining(now)
        text += "" if left is None else f", about {duration(left)} left"
        line = Table.grid(padding=(0, 1))
        line.add_row(ProgressBar(total=max(1, len(self.runs)), completed=way, width=24), Text(text))
        return line

    def _remaining(self, now: float) -> float | None:
        """Seconds to go for all runs, from the ways that were gone in this session."""
        gone = sum(state.way - state.began_at for state in self.states if state.began is not None)
        to_go = sum(1 - state.way for state in self.states)
        return (now - self.start) * to_go / gone if gone > 0 else None

    def _summary(self) -> str:
        counts = Counter(state.status or "not finished" for state in self.states)
        told = ", ".join(f"{number} {one_line(status)}" for status, number in counts.items())
        return f"{len(self.runs)} runs: {told}, in {duration(max(0.0, time.time() - self.start))}"


def _on_stderr() -> Console:
    """A terminal only if stderr is one, whatever FORCE_COLOR says: the view redraws itself."""
    stream = patient(sys.stderr)
    if stream is None:
        return Console(stderr=True, force_terminal=False)
    return Console(file=stream, force_terminal=stream.isatty())
