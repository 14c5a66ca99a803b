"""The LoRA family on tiny synthetic tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from method_cases import (
    MLP,
    OPTIMIZERS,
    fit_of,
    learn_with,
    set_up,
    tiny,
)

from lora_cl.benchmarks import Task
from lora_cl.config import Experiment
from lora_cl.methods import Fit, Method


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
    """Classes far apart; ``method`` is YAML, such as ``lora: {rank: 2}``."""
    return tiny(
        method,
        scenario,
        model,
        train,
        tasks=tasks,
        duration=duration,
        data="separation: 6",
        checkpoint_seconds=checkpoint_seconds,
        features=features,
    )


def method_on(*args: Any, **named: Any) -> Method:
    return set_up(experiment(*args, **named))


def quick_fit(method: Method, steps: int = 6) -> Fit:
    return fit_of(method, steps, weight_decay=0.01)


def learn(method: Method, tasks: Sequence[int | Task], steps: int = 6) -> None:
    learn_with(method, tasks, quick_fit(method, steps))
