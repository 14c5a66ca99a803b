"""The LoRA family on tiny synthetic tasks, with and without the machinery of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import lora_cl
from lora_cl.benchmarks import Task, permutation
from lora_cl.config import Experiment
from lora_cl.methods import METHODS, Fit, MemoryBank, Method
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
    checkpoint_seconds: int = 30,
    features: int = 32,
) -> Experiment:
    """Two classes a task, 48 samples, far apart; ``features``, or 4 x 4 images for the cnn.

    ``method`` is YAML, such as ``lora: {rank: 2}``. Two epochs are 6 steps.
    """
    inputs = "shape: [1, 4, 4]" if "cnn" in model else f"features: {features}"
    size = f"classes: {2 * tasks}, train_per_class: 24"
    data = f"{{name: synthetic, separation: 6, {size}, {inputs}}}"
    text = f"""
name: tiny
benchmark: {{name: split, dataset: {data}, tasks: {tasks}}}
scenario: {scenario}
model: {model}
train: {{{duration}, batch_size: 16, {train}}}
methods: {{{method}}}
checkpoint_seconds: {checkpoint_seconds}
"""
    return lora_cl.parse_config(text, "test")


def method_on(*args: Any, **named: Any) -> Method:
    """A method after ``setup``, its bank in memory."""
    config = experiment(*args, **named).config
    benchmark = make_benchmark(config, 0, torch.device("cpu"), None)
    (options,) = config.methods.values()
    method = METHODS[options.method](options)
    method.check(benchmark)
    network = build_network(config.model, benchmark.input_shape, 7)
    method.setup(network, benchmark, 0, MemoryBank())
    return method


def quick_fit(method: Method, steps: int = 6) -> Fit:
    """A ``fit`` of a few steps of SGD with momentum and weight decay."""

    def fit(tasks: Sequence[Task], *, start: float = 0.0, end: float = 1.0) -> None:
        with method.view_together(tasks) as network:
            samples = tasks[0].train()
            y = samples.y + network.offsets[tasks[0].id]
            method.start_fit(tasks, network)
            loop.fit(
                method,
                network,
                samples.x,
                y,
                optimizer=make_optimizer("sgd", method.param_groups(), 0.01, 0.01, 0.9),
                rate=loop.RATES["constant"],
                batch_size=16,
                total_steps=steps,
                order=lambda epoch: permutation(len(y), epoch),
                clip_norm=None,
                progress=loop.Progress(),
                after_step=lambda: None,
                after_epoch=lambda losses: None,
            )

    return fit


def learn(method: Method, tasks: Sequence[int | Task], steps: int = 6) -> None:
    for task in tasks:
        task = method.benchmark.task(task) if isinstance(task, int) else task
        method.begin(task)
        method.learn(task, quick_fit(method, steps))


def seen(method: Method, task_id: int) -> str:
    """The fingerprint of what a task uses."""
    with method.view(task_id) as network:
        return fingerprint(network, {})


def check_going_on_from_state(make: Callable[[], Method]) -> None:
    """Three tasks learned in one go, and with another object taking over after the second."""
    whole, first, second = make(), make(), make()
    learn(whole, [0, 1, 2])
    learn(first, [0, 1])
    second.bank.update(first.bank)
    for task_id in (0, 1):
        second.begin(second.benchmark.task(task_id))
    second.load_state_dict({k: v.clone() for k, v in first.state_dict().items()})
    assert [seen(first, k) for k in (0, 1)] == [seen(second, k) for k in (0, 1)]
    learn(second, [2])
    assert [seen(whole, k) for k in range(3)] == [seen(second, k) for k in range(3)]
    assert whole.details() == second.details()
    assert whole.kept.keys() == second.kept.keys()
    assert all(torch.equal(v, second.kept[k]) for k, v in whole.kept.items())


def run_one(one: Experiment, folder: Path) -> Record:
    (record,) = lora_cl.run(one, results=folder, jobs=0, device="cpu", progress=False)
    assert record.status == "done", record.result["error"]
    return record


def run_interrupted(one: Experiment, folder: Path, kill_after: Sequence[int]) -> Record:
    """The run, killed after so many steps, then after so many more, ...; at last it ends."""
    (options,) = one.config.methods.values()
    kind = METHODS[options.method]
    real, left = kind.after_step, 0

    def after_step(self: Method, step: int, total_steps: int) -> None:
        nonlocal left
        real(self, step, total_steps)
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "after_step", after_step)
        for left in kill_after:  # noqa: B007
            with pytest.raises(KeyboardInterrupt):
                lora_cl.run(one, results=folder, jobs=0, device="cpu", progress=False)
    return run_one(one, folder)


def check_kill_and_resume(one: Experiment, folder: Path, kill_after: Sequence[int]) -> None:
    """An interrupted run ends like a whole one, in all but time, memory and place."""
    whole = run_one(one, folder / "whole")
    killed = run_interrupted(one, folder / "killed", kill_after)
    for key in ("accuracy_matrix", "untrained_accuracy", "details", "isolated"):
        assert whole.result[key] == killed.result[key]
    for key in ("trained_params_per_task", "added_params_per_task", "total_params", "stored_bytes"):
        assert whole.result["cost"][key] == killed.result["cost"][key]
    methods = [lora_cl.load_run(record.folder) for record in (whole, killed)]
    n_tasks = whole.result["n_tasks"]
    assert n_tasks > 1
    for task_id in range(n_tasks):
        assert seen(methods[0], task_id) == seen(methods[1], task_id)
