"""A fit for methods whose tasks share a backbone, and what their tests ask of all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lora_cl
from lora_cl.benchmarks import Task, permutation
from lora_cl.config import Experiment
from lora_cl.methods import METHODS, Fit, MemoryBank, Method
from lora_cl.models import build_network
from lora_cl.records.folders import Record
from lora_cl.running.making import make_benchmark
from lora_cl.training import loop
from lora_cl.training.optimizers import make_optimizer

MLP = "{name: mlp, hidden: [16, 16]}"
CNN = "{name: cnn, channels: [4], hidden: 8}"
ADAM = "optimizer: adam, lr: 0.01"
CASES = [
    (scenario, adapter) for scenario in ("task", "domain", "class") for adapter in ("", "lora")
]


def experiment(
    method: str, scenario: str = "task", model: str = MLP, train: str = ADAM
) -> Experiment:
    """Three tasks of two classes, 48 samples each, nine steps a task; ``method`` is YAML."""
    inputs = "shape: [1, 4, 4]" if "cnn" in model else "features: 32"
    text = f"""
name: shared
benchmark:
  name: split
  tasks: 3
  dataset: {{name: synthetic, classes: 6, train_per_class: 24, {inputs}}}
scenario: {scenario}
model: {model}
train: {{epochs: 3, batch_size: 16, {train}}}
methods: {{tried: {method}}}
checkpoint_seconds: 0
"""
    return lora_cl.parse_config(text, "test")


def method_on(method: str, scenario: str = "task", model: str = MLP) -> Method:
    """A method after ``setup``."""
    config = experiment(method, scenario, model).config
    benchmark = make_benchmark(config, 0, torch.device("cpu"), None)
    (chosen,) = config.methods.values()
    made = METHODS[chosen.method](chosen)
    made.check(benchmark)
    network = build_network(config.model, benchmark.input_shape, 7)
    made.setup(network, benchmark, 0, MemoryBank())
    return made


def run_one(one: Experiment, folder: Path) -> Record:
    (record,) = lora_cl.run(one, results=folder, jobs=0, device="cpu", progress=False)
    assert record.status == "done", record.result["error"]
    return record


def options(method: str, adapter: str = "", more: str = "") -> str:
    """The YAML of a method."""
    parts = [
        f"method: {method}",
        f"adapter: {{name: {adapter}, rank: 2, alpha: 2}}" if adapter else "",
        more,
    ]
    return "{" + ", ".join(part for part in parts if part) + "}"


def sgd_fit(
    method: Method, steps: int = 6, lr: float = 0.01, each: Callable[[], None] = lambda: None
) -> Fit:
    """A ``fit`` of a few steps of SGD with momentum and weight decay."""

    def fit(tasks: Sequence[Task], *, start: float = 0.0, end: float = 1.0) -> None:
        (task,) = tasks
        with method.view_together(tasks) as network:
            samples = task.train()
            method.start_fit(tasks, network)
            loop.fit(
                method,
                network,
                samples.x,
                samples.y + network.offsets[task.id],
                optimizer=make_optimizer("sgd", method.param_groups(), lr, 0.1, 0.9),
                rate=loop.RATES["constant"],
                batch_size=16,
                total_steps=steps,
                order=lambda epoch: permutation(len(samples.y), epoch),
                clip_norm=None,
                progress=loop.Progress(),
                after_step=each,
                after_epoch=lambda losses: None,
            )

    return fit


def learn(method: Method, task_ids: Sequence[int], **named: Any) -> None:
    for task_id in task_ids:
        task = method.benchmark.task(task_id)
        method.begin(task)
        method.learn(task, sgd_fit(method, **named))


def state(method: Method) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in method.state_dict().items()}


def assert_same_state(one: Method, other: Method) -> None:
    mine, others = one.state_dict(), other.state_dict()
    assert mine.keys() == others.keys()
    assert len(mine) > 4
    assert all(bool(tensor.isfinite().all()) for tensor in mine.values())
    different = [name for name in mine if not torch.equal(mine[name], others[name])]
    assert different == []


def assert_goes_on_from_its_state(make: Callable[[], Method]) -> None:
    """Another object that takes over after two tasks learns the third just as the first one."""
    whole, first, second = make(), make(), make()
    learn(whole, [0, 1, 2])
    learn(first, [0, 1])
    for task_id in (0, 1):
        second.begin(second.benchmark.task(task_id))
    second.load_state_dict(state(first))
    learn(second, [2])
    assert_same_state(whole, second)


def assert_interruption_changes_nothing(yaml: str, folder: Path, scenario: str = "class") -> None:
    """Killed within the first task and, after that, twice within the second, then resumed."""
    one = experiment(yaml, scenario)
    whole = run_one(one, folder / "whole")
    (chosen,) = one.config.methods.values()
    kind, kills, steps = METHODS[chosen.method], [4, 8, 2], 0
    after_step = kind.after_step

    def count(self: Method, step: int, total_steps: int) -> None:
        nonlocal steps
        after_step(self, step, total_steps)
        steps += 1
        if kills and steps == kills[0]:
            kills.pop(0)
            steps = 0
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "after_step", count)
        for _ in range(3):
            with pytest.raises(KeyboardInterrupt):
                lora_cl.run(one, results=folder / "killed", jobs=0, device="cpu", progress=False)
        resumed = run_one(one, folder / "killed")
    assert kills == []
    for key in ("accuracy_matrix", "details"):
        assert resumed.result[key] == whole.result[key]
    for key in ("trained_params_per_task", "total_params", "stored_bytes"):
        assert resumed.result["cost"][key] == whole.result["cost"][key]
    assert_same_state(lora_cl.load_run(resumed.folder), lora_cl.load_run(whole.folder))


def accuracies(yaml: str, scenario: str, folder: Path) -> list[list[float | None]]:
    """The accuracy matrix of a run of three tasks, two classes each."""
    record = run_one(experiment(yaml, scenario), folder)
    matrix: list[list[float | None]] = record.result["accuracy_matrix"]
    assert len(matrix) == 3
    return matrix


def last_mean(matrix: Sequence[Sequence[float | None]]) -> float:
    """The average accuracy after the last task."""
    row = [value for value in matrix[-1] if value is not None]
    assert len(row) == len(matrix)
    return sum(row) / len(row)


def trunk_bytes(method: Method) -> int:
    """The bytes of the 32-16-16 perceptron and heads made by hand: 4 a number."""
    numbers = 32 * 16 + 16 + 16 * 16 + 16
    assert sum(p.numel() for p in method.network.backbone.parameters()) == numbers
    return 4 * numbers
