"""The seconds that count as training and evaluation, and the turns of runs that share a core."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from lora_cl.running.state import RunState

TURN_SECONDS = 0.2
"""How long a run computes before it offers its core to another one."""

GiveWay = Callable[[], None]
"""Called between two steps; comes back when it is this run's turn again."""


class Clock:
    """Adds seconds to the ledger: those inside ``timed``, but for those inside ``stopped``."""

    def __init__(self, state: RunState, device: torch.device) -> None:
        self.state, self.device = state, device
        self.current: str | None = None
        self.since = time.perf_counter()

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """``what`` is the ledger's `train_seconds` or `eval_seconds`."""
        self._lap()
        self.current = what
        yield
        self._lap()
        self.current = None

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self._lap()
        yield
        self._lap(counts=False)

    def _lap(self, counts: bool = True) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if counts and self.current is not None:
            ledger = self.state.ledger
            setattr(ledger, self.current, getattr(ledger, self.current) + now - self.since)
        self.since = now


class Turns:
    """Gives way to another run now and then, where ``give_way`` says how."""

    def __init__(self, give_way: GiveWay | None, clock: Clock) -> None:
        self.give_way, self.clock = give_way, clock
        self.last = time.monotonic()

    def offer(self) -> None:
        if self.give_way is not None and time.monotonic() - self.last >= TURN_SECONDS:
            with self.clock.stopped():
                self.give_way()
            self.last = time.monotonic()
