"""Runs that stop when time is up, and go on later as if nothing had been."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lora_cl import api
from lora_cl.config import parse_config
from lora_cl.errors import OutOfTimeError
from lora_cl.running import session
from lora_cl.running.runner import Outcome, Where, run_one
from lora_cl.testing.runs import log, one_run, outcome

pytestmark = pytest.mark.commands

SOON = time.time() + 1e6
"""Time is up when the clock of a session, which ticks by itself here, says so."""


def clock_that_ends(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """Time is up at the ``calls``-th look at the clock."""
    looks = iter(range(10**6))
    late = SimpleNamespace(time=lambda: SOON if next(looks) + 1 >= calls else 0.0)
    monkeypatch.setattr(session, "time", late)


@pytest.mark.parametrize("method", ["lora: {}", "ewc: {}", "packnet: {}", "joint: {}"])
def test_stopped_again_and_again_it_ends_with_the_same_bytes(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = one_run(method, "task", "checkpoint_seconds=1000")
    assert run is not None
    assert run_one(run, Where(tmp_path / "whole")) == Outcome("done")
    cut = Where(tmp_path / "cut", until=SOON)
    stops = 0
    while True:
        clock_that_ends(monkeypatch, 4)
        ended = run_one(run, cut)
        if ended == Outcome("done"):
            break
        assert ended == Outcome("unfinished")
        assert not (tmp_path / "cut" / run.folder / "result.json").exists()
        stops += 1
        assert stops < 30
    assert stops >= 3
    events = [event["event"] for event in log(tmp_path / "cut" / run.folder)]
    assert events.count("stopped") == stops
    assert outcome(tmp_path / "cut" / run.folder) == outcome(tmp_path / "whole" / run.folder)


def test_when_time_is_up_nothing_is_begun_and_what_is_done_is_done(tmp_path: Path) -> None:
    run = one_run("full: {}")
    assert run is not None
    late = Where(tmp_path, until=0.0)
    for force in (False, True):
        assert run_one(run, late, force) == Outcome("unfinished")
        assert not list((tmp_path / run.folder).glob("*.json*"))
    assert run_one(run, Where(tmp_path)) == Outcome("done")
    assert run_one(run, late) == Outcome("done")


LONG = """
name: long
benchmark: {name: split, dataset: {name: synthetic, classes: 4}, tasks: 2}
model: {hidden: [8]}
train: {iterations: 100000}
methods: {frozen: {train: {iterations: 1}}, full: , lora: {rank: 2}}
"""


@pytest.mark.parametrize("jobs", [0, 2])
def test_a_command_says_what_is_left(jobs: int, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"results": tmp_path, "jobs": jobs, "progress": False}
    experiment = parse_config(LONG, "long.yaml", ())
    with pytest.raises(OutOfTimeError, match=r"^time is up: 2 of 3 runs are not done"):
        api.run(experiment, max_seconds=4.0 + 3.0 * jobs, **settings)
    outlooks = {one.run.label: one.outlook for one in api.plan(experiment, results=tmp_path)}
    assert outlooks["frozen"] == "reused"
    assert outlooks["full"] == "resumed"
    # In two processes it was begun, unless the machine is very busy.
    assert outlooks["lora"] in (["to do"] if jobs == 0 else ["resumed", "to do"])
