"""Methods on tiny synthetic tasks, with and without the machinery of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import lora_cl
from lora_cl.benchmarks import Task, permutation
from lora_cl.config import Experiment
from lora_cl.methods import METHODS, Fit, Method
from lora_cl.models import build_network, fingerprint
from lora_cl.records.folders import Record
from lora_cl.running.making import make_benchmark
from lora_cl.training import loop
from lora_cl.training.optimizers import make_optimizer

SCENARIOS = ("task", "domain", "class")
OPTIMIZERS = (
    "optimizer: sgd, momentum: 0.9, weight_decay: 0.01, lr: 0.01",
    "optimizer: adam, weight_decay: 0.01, lr: 0.01",
)
MLP = "{name: mlp, hidden: [16, 16]}"
CNN = "{name: cnn, channels: [4], hidden: 8}"


def experiment(
    method: str,
    scenario: str = "task",
    train: str = OPTIMIZERS[0],
    model: str = MLP,
    tasks: int = 3,
    duration: str = "epochs: 2",
) -> Experiment:
    """Two classes a task, 32 features (or 4 x 4 images for the cnn).

    ``method`` is a name, or YAML of one label with its options.
    """
    methods = method if method.startswith("{") else f"{{{method}: {{}}}}"
    inputs = "shape: [1, 4, 4]" if "cnn" in model else "features: 32"
    data = f"{{name: synthetic, classes: {2 * tasks}, train_per_class: 24, {inputs}}}"
    text = f"""
name: tiny
benchmark: {{name: split, dataset: {data}, tasks: {tasks}}}
scenario: {scenario}
model: {model}
train: {{{duration}, batch_size: 16, {train}}}
methods: {methods}
checkpoint_seconds: 0
"""
    return lora_cl.parse_config(text, "test")


def method_on(*args: Any, **named: Any) -> Method:
    """A method after ``setup``, its bank a plain dict."""
    config = experiment(*args, **named).config
    benchmark = make_benchmark(config, 0, torch.device("cpu"), None)
    (options,) = config.methods.values()
    method = METHODS[options.method](options)
    method.check(benchmark)
    method.setup(build_network(config.model, benchmark.input_shape, 7), benchmark, 0, {})
    return method


def quick_fit(method: Method, optimizer: str = "sgd", steps: int = 6) -> Fit:
    """A ``fit`` of a few steps, with weight decay and, for sgd, momentum."""

    def fit(tasks: Sequence[Task], *, start: float = 0.0, end: float = 1.0) -> None:
        with method.view_together(tasks) as network:
            samples = tasks[0].train()
            method.start_fit(tasks, network)
            momentum = 0.9 if optimizer == "sgd" else 0.0
            loop.fit(
                method,
                network,
                samples.x,
                samples.y,
                optimizer=make_optimizer(optimizer, method.param_groups(), 0.05, 0.1, momentum),
                rate=loop.RATES["constant"],
                batch_size=16,
                total_steps=loop.step_at(end, steps) - loop.step_at(start, steps),
                order=lambda epoch: permutation(len(samples.y), epoch),
                clip_norm=None,
                progress=loop.Progress(),
                after_step=lambda: None,
                after_epoch=lambda losses: None,
            )

    return fit


def learn(method: Method, task_ids: Sequence[int], fit: Fit | None = None) -> None:
    for task_id in task_ids:
        task = method.benchmark.task(task_id)
        method.begin(task)
        method.learn(task, fit or quick_fit(method))


def seen(method: Method, task_id: int) -> str:
    """The fingerprint of what a task uses."""
    with method.view(task_id) as network:
        return fingerprint(network, {})


def go_on_from_state(make: Any) -> tuple[Method, Method]:
    """Three tasks learned in one go, and with another object taking over after the second."""
    whole, first, second = make(), make(), make()
    learn(whole, [0, 1, 2])
    learn(first, [0, 1])
    second.bank |= first.bank
    for task_id in (0, 1):
        second.begin(second.benchmark.task(task_id))
    second.load_state_dict({k: v.clone() for k, v in first.state_dict().items()})
    assert [seen(first, k) for k in (0, 1)] == [seen(second, k) for k in (0, 1)]
    learn(second, [2])
    return whole, second


def run_one(one: Experiment, folder: Path) -> Record:
    (record,) = lora_cl.run(one, results=folder, jobs=0, device="cpu", progress=False)
    assert record.status == "done", record.result["error"]
    return record


def run_interrupted(one: Experiment, folder: Path, kill_at: Sequence[int]) -> Record:
    """The run, killed at these steps of it (counting on from each kill), resumed every time."""
    (options,) = one.config.methods.values()
    kind = METHODS[options.method]
    steps, kills = 0, 0
    after_step = kind.after_step

    def count(self: Method, step: int, total_steps: int) -> None:
        nonlocal steps
        after_step(self, step, total_steps)
        steps += 1
        if kills < len(kill_at) and steps == kill_at[kills]:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "after_step", count)
        for kills in range(len(kill_at)):  # noqa: B007
            steps = 0
            with pytest.raises(KeyboardInterrupt):
                lora_cl.run(one, results=folder, jobs=0, device="cpu", progress=False)
        kills = len(kill_at)
        return run_one(one, folder)


def same_result(one: Record, other: Record) -> None:
    """Equal in everything that is not time, memory or place."""
    for key in ("accuracy_matrix", "untrained_accuracy", "details", "isolated"):
        assert one.result[key] == other.result[key]
    measured = ("train_seconds", "eval_seconds", "peak_memory_bytes")
    costs = [
        {k: v for k, v in record.result["cost"].items() if k not in measured}
        for record in (one, other)
    ]
    assert costs[0] == costs[1]
    methods = [lora_cl.load_run(record.folder) for record in (one, other)]
    n_tasks = one.result["n_tasks"]
    assert n_tasks == 3
    for task_id in range(n_tasks):
        assert seen(methods[0], task_id) == seen(methods[1], task_id)
