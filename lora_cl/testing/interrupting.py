"""Runs that are cut off at random places, in this process."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from lora_cl.config import RunConfig
from lora_cl.records.results import read_result
from lora_cl.running import checkpoints, resuming, session
from lora_cl.running.runner import Outcome, Where, run_one
from lora_cl.testing.runs import log, outcome
from lora_cl.training import loop

POINTS = [
    (resuming.Resuming, "save_if_due"),
    (session, "append_event"),
    (checkpoints, "write_atomic"),
    (checkpoints.AdapterFolder, "__setitem__"),
    (checkpoints.AdapterFolder, "__delitem__"),
    (loop, "predictions"),
    (loop, "counted"),
]


class Interrupter:
    """Raises KeyboardInterrupt before or after the ``countdown``-th call of any of POINTS."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.countdown, self.calls, self.interrupts = 0, 0, 0
        for owner, name in POINTS:
            monkeypatch.setattr(owner, name, self.wrapped(getattr(owner, name)))

    def wrapped(self, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.tick()
            value = function(*args, **kwargs)
            self.tick()
            return value

        return call

    def tick(self) -> None:
        self.calls += 1
        self.countdown -= 1
        if self.countdown == 0:
            self.interrupts += 1
            raise KeyboardInterrupt


def cut_and_compare(run: RunConfig, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is cut off again and again ends with the bytes of one that was left alone."""
    whole, cut = Where(scratch / "whole"), Where(scratch / "cut")
    ended = run_one(run, whole)
    assert ended == Outcome("done"), ended.message
    interrupter = Interrupter(monkeypatch)
    dice = random.Random(run.run_hash)
    for _ in range(9):
        # Checkpoints after every step, or at the ends of epochs and tasks alone.
        run.resolved["checkpoint_seconds"] = dice.choice([0.0, 1000.0])
        # The first two come early enough to cut off a run of few steps.
        latest = 40 if interrupter.interrupts >= 2 else 12
        interrupter.countdown = dice.randrange(1, latest) if interrupter.interrupts < 8 else 0
        try:
            ended = run_one(run, cut)
        except KeyboardInterrupt:
            continue
        break
    assert ended == Outcome("done")
    assert interrupter.interrupts >= 2
    assert interrupter.calls > 30
    folder = cut.results / run.folder
    assert outcome(folder) == outcome(whole.results / run.folder)
    assert not list(folder.rglob("*.tmp"))
    assert not (folder / "checkpoint").exists()
    starts = [event for event in log(folder) if event["event"] == "run_started"]
    assert len(starts) >= 2
    result = read_result(folder)
    assert result is not None
    assert result["provenance"]["sessions"] == len(starts)
