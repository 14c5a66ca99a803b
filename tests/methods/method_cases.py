"""Methods on tiny synthetic tasks, with and without a run: one set for all their tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

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

Learn = Callable[[Method, Sequence[int]], None]


def tiny(
    methods: str,
    scenario: str = "task",
    model: str = MLP,
    train: str = OPTIMIZERS[0],
    *,
    tasks: int = 3,
    duration: str = "epochs: 2",
    data: str = "",
    checkpoint_seconds: int = 0,
    features: int = 32,
) -> Experiment:
    """Two classes a task, 48 samples; ``features``, or 4 x 4 images for the cnn.

    ``methods`` is YAML, such as ``lora: {rank: 2}``; ``data`` is more of the data set's options.
    Two epochs are 6 steps a task.
    """
    inputs = "shape: [1, 4, 4]" if "cnn" in model or "vit" in model else f"features: {features}"
    options = ", ".join(filter(None, (f"classes: {2 * tasks}, train_per_class: 24", inputs, data)))
    text = f"""
name: tiny
benchmark: {{name: split, dataset: {{name: synthetic, {options}}}, tasks: {tasks}}}
scenario: {scenario}
model: {model}
train: {{{duration}, batch_size: 16, {train}}}
methods: {{{methods}}}
checkpoint_seconds: {checkpoint_seconds}
"""
    return lora_cl.parse_config(text, "test")


def set_up(one: Experiment) -> Method:
    """The method of a config after ``setup``, its bank in memory."""
    config = one.config
    benchmark = make_benchmark(config, 0, torch.device("cpu"), None)
    (options,) = config.methods.values()
    method = METHODS[options.method](options)
    method.check(benchmark)
    network = build_network(config.model, benchmark.input_shape, 7)
    method.setup(network, benchmark, 0, MemoryBank())
    return method


def fit_of(
    method: Method,
    steps: int = 6,
    *,
    optimizer: str = "sgd",
    lr: float = 0.01,
    weight_decay: float = 0.1,
    each: Callable[[], None] = lambda: None,
) -> Fit:
    """A ``fit`` of a task's few steps with weight decay and, for sgd, momentum."""

    def fit(tasks: Sequence[Task], *, start: float = 0.0, end: float = 1.0) -> None:
        task = tasks[0]
        momentum = 0.9 if optimizer == "sgd" else 0.0
        with method.view_together(tasks) as network:
            samples = task.train()
            method.start_fit(tasks, network)
            loop.fit(
                method,
                network,
                samples.x,
                samples.y + network.offsets[task.id],
                optimizer=make_optimizer(
                    optimizer, method.param_groups(), lr, weight_decay, momentum
                ),
                rate=loop.RATES["constant"],
                batch_size=16,
                total_steps=loop.step_at(end, steps) - loop.step_at(start, steps),
                order=lambda epoch: permutation(len(samples.y), epoch),
                clip_norm=None,
                precision="float32",
                progress=loop.Progress(),
                after_step=each,
                after_epoch=lambda losses: None,
            )

    return fit


def learn_with(method: Method, tasks: Sequence[int | Task], fit: Fit) -> None:
    for task in tasks:
        task = method.benchmark.task(task) if isinstance(task, int) else task
        method.begin(task)
        method.learn(task, fit)
        method.finish(task)


def seen(method: Method, task_id: int) -> str:
    """The fingerprint of what a task uses."""
    with method.view(task_id) as network:
        return fingerprint(network, {})


def state(method: Method) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in method.state_dict().items()}


def run_one(one: Experiment, folder: Path) -> Record:
    (record,) = lora_cl.run(one, results=folder, jobs=0, device="cpu", progress=False)
    assert record.status == "done", record.result["error"]
    return record
