"""A run that is cut off anywhere and started again ends as one that was left alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from run_cases import log, one_run, outcome

from lora_cl.benchmarks import SCENARIOS
from lora_cl.config import RunConfig
from lora_cl.methods import METHODS
from lora_cl.records.results import read_result
from lora_cl.running import checkpoints, resuming, session
from lora_cl.running.runner import Outcome, Where, run_one
from lora_cl.training import loop

POINTS = [
    (resuming.Resuming, "save_if_due"),
    (session, "append_event"),
    (checkpoints, "write_atomic"),
    (checkpoints.AdapterFolder, "__setitem__"),
    (checkpoints.AdapterFolder, "__delitem__"),
    (loop, "accuracy"),
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


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_resumes_bit_identically(
    method: str, scenario: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = one_run(f"{method}: {{}}", scenario)
    if run is None:
        pytest.skip(f"{method} has no meaning in {scenario}-incremental runs")
    cut_and_compare(run, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("method", "scenario", "overrides"),
    [
        ("full: {}", "class", ["train.optimizer=sgd", "train.momentum=0.9"]),
        ("full: {}", "task", ["train.optimizer_state=keep", "train.schedule=cosine"]),
        ("lora: {}", "task", ["train.optimizer_state=keep", "train.optimizer=adamw"]),
        ("full: {}", "task", ["model.dropout=0.5", "train.clip_norm=0.1"]),
        ("lora: {}", "task", ["model.dropout=0.5", "cache=false"]),
        (
            "full: {}",
            "domain",
            ["train.epochs=null", "train.iterations=7", "train.schedule=linear"],
        ),
        ("full: {adapter: lora}", "class", []),
        ("ewc: {adapter: dora}", "domain", []),
        ("frozen: {head: ncm}", "domain", []),
        ("lora: {router: entropy}", "class", []),
        ("lora: {router: prototype}", "domain", []),
        ("lora: {targets: last-1}", "task", []),
        ("full: {}", "task", ["benchmark.class_order=shuffled", "benchmark.max_train_samples=33"]),
        ("ewc: {}", "class", ["benchmark.name=permuted"]),
    ],
)
def test_other_options_resume_bit_identically(
    method: str,
    scenario: str,
    overrides: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = one_run(method, scenario, *overrides)
    assert run is not None
    cut_and_compare(run, tmp_path, monkeypatch)


def cut_and_compare(run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = Where(tmp_path / "whole"), Where(tmp_path / "cut")
    assert run_one(run, whole) == Outcome("done")
    interrupter = Interrupter(monkeypatch)
    dice = random.Random(run.run_hash)
    for _ in range(9):
        # Checkpoints after every step, or at the ends of epochs and tasks alone.
        run.resolved["checkpoint_seconds"] = dice.choice([0.0, 1000.0])
        interrupter.countdown = dice.randrange(1, 40) if interrupter.interrupts < 8 else 0
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
    assert read_result(folder)["provenance"]["sessions"] == len(starts)


def test_what_is_no_part_of_the_hash_changes_no_byte(tmp_path: Path) -> None:
    for method in ("lora: {}", "frozen: {}", "full: {}"):
        one, other = one_run(method), one_run(method, "task", "checkpoint_seconds=9")
        assert one is not None
        assert other is not None
        assert one.folder == other.folder
        assert run_one(one, Where(tmp_path / "a")) == Outcome("done")
        assert run_one(other, Where(tmp_path / "b")) == Outcome("done")
        assert outcome(tmp_path / "a" / one.folder) == outcome(tmp_path / "b" / one.folder)
