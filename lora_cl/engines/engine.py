"""What an engine is: it takes runs, and says of each how it ended, as it ends."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from lora_cl.config import RunConfig
from lora_cl.running.runner import UNFINISHED, Outcome, Where

PATIENCE_SECONDS = 3.0
"""How long a run whose folder another process has is waited for before a line tells of it."""


class Watcher(Protocol):
    """Hears how the runs go; see ``progress.Progress``."""

    def poll(self) -> None: ...
    def finished(self, index: int, status: str, message: str | None) -> None: ...
    def say(self, text: str) -> None: ...


Engine = Callable[[Sequence[RunConfig], Where, Watcher, bool], list[str]]
"""Does runs where they belong, anew if the last one is true, and returns their statuses, in order.

``poll`` is called a few times a second, ``finished`` once for each run that came to an end. A run
is ``unfinished`` where time was up. KeyboardInterrupt stops all of them and is raised again."""


class Tally:
    """The statuses of runs as they end; tells of those that another process has."""

    def __init__(self, runs: Sequence[RunConfig], watcher: Watcher) -> None:
        self.statuses = [UNFINISHED] * len(runs)
        self.watcher = watcher
        self.since: dict[int, float] = {}

    def ended(self, index: int, outcome: Outcome) -> bool:
        """Notes how run ``index`` ended; False if it did not, as another process has it."""
        self.watcher.poll()
        if outcome.status == "locked":
            self._waiting(index, outcome)
            return False
        self.statuses[index] = outcome.status
        if outcome.status != UNFINISHED:
            self.watcher.finished(index, outcome.status, outcome.message)
        return True

    def _waiting(self, index: int, outcome: Outcome) -> None:
        """Tells of it once, when it takes a while."""
        now = time.monotonic()
        if now - self.since.setdefault(index, now) >= PATIENCE_SECONDS:
            self.since[index] = math.inf
            self.watcher.say(f"waiting: {outcome.message}; Ctrl-C ends the wait")
