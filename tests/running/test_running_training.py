"""What a run is trained with: its method's own `train:`, and the rate of its heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lora_cl.methods import METHODS
from lora_cl.running import session
from lora_cl.running.base import base_network
from lora_cl.running.making import make_benchmark
from lora_cl.running.runner import Outcome, Where, run_one
from lora_cl.running.session import Session
from lora_cl.testing.runs import TINY, log, one_run, runs_of
from lora_cl.training import loop

PRETRAIN = "base={pretrain: {dataset: {name: synthetic, classes: 4, features: 12, seed: 1}}}"


def test_a_method_s_own_training_is_what_it_is_trained_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40 samples a task in batches of 16 are 3 steps an epoch."""
    methods = "a: {method: full, train: {iterations: 5, lr: 0.5}}, b: {method: full}"
    rates: dict[str, set[float]] = {"a": set(), "b": set()}
    make = session.make_optimizer
    for run in runs_of(TINY.format(scenario="task", method=methods)):

        def watched(*given: Any, into: set[float] = rates[run.label]) -> Any:
            optimizer = make(*given)
            into.update(group["lr"] for group in optimizer.groups)
            return optimizer

        monkeypatch.setattr(session, "make_optimizer", watched)
        assert run_one(run, Where(tmp_path)) == Outcome("done")
        events = log(tmp_path / run.folder)
        steps = [event["steps"] for event in events if event["event"] == "fit_started"]
        assert steps == ([5] * 3 if run.label == "a" else [6] * 3)
    assert rates == {"a": {0.5}, "b": {0.01}}


def test_methods_that_train_otherwise_start_alike_and_see_the_same_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[list[list[int]]] = []
    fit = loop.fit

    def watched(*given: Any, order: Any, **named: Any) -> None:
        orders[-1].append(order(0).tolist())
        fit(*given, order=order, **named)

    monkeypatch.setattr(loop, "fit", watched)
    methods = "full: {}, lora: {train: {lr: 0.3, optimizer: adamw, head_lr: 0.1, epochs: 1}}"
    runs = runs_of(TINY.format(scenario="task", method=methods), PRETRAIN)
    bases = []
    for run in runs:
        config, cpu = run.parse(), torch.device("cpu")
        benchmark = make_benchmark(config, 0, cpu, None)
        orders.append([])
        # In places of their own: neither takes the base that the other has kept.
        place = tmp_path / run.label
        bases.append(base_network(config, 0, benchmark, cpu, place).backbone.state_dict())
        assert len(orders[-1]) == 1
        assert run_one(run, Where(tmp_path, data_dir=place)) == Outcome("done")
        assert len(orders[-1]) == 4
        assert [file.name for file in (tmp_path / "full" / "bases").iterdir()] == [
            file.name for file in (place / "bases").iterdir()
        ]
    assert orders[0] == orders[1]
    assert len(bases[0]) == 4
    assert all(torch.equal(bases[1][name], tensor) for name, tensor in bases[0].items())


@pytest.mark.parametrize("method", METHODS)
def test_heads_of_every_method_have_their_rate(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing else has it: heads are known by being what a task's network ends in."""
    seen: list[int] = []
    fit = Session.fit
    make = session.make_optimizer
    heads: set[int] = set()

    def watched_fit(self: Session, tasks: Any, **named: Any) -> None:
        with self.method.view_together(tasks) as network:
            heads.clear()  # Ids of what is gone are given again.
            heads.update(id(p) for p in network.heads.parameters())
        fit(self, tasks, **named)

    def watched(*given: Any) -> Any:
        optimizer = make(*given)
        for group in optimizer.groups:
            scale = group["lr"] / (0.25 if any(id(p) in heads for p in group["params"]) else 0.01)
            assert scale in (1.0, 0.1)
            assert len({id(p) in heads for p in group["params"]}) <= 1
            seen.append(sum(id(p) in heads for p in group["params"]))
        return optimizer

    monkeypatch.setattr(Session, "fit", watched_fit)
    monkeypatch.setattr(session, "make_optimizer", watched)
    run = one_run(f"{method}: {{}}", "class", "train.head_lr=0.25", "train.epochs=1")
    assert run is not None
    ended = run_one(run, Where(tmp_path))
    assert ended == Outcome("done"), ended.message
    assert sum(seen) >= 2
