"""Methods with a head per task on tiny synthetic tasks."""

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

from lora_cl.config import Experiment
from lora_cl.methods import Fit, Method


def experiment(
    method: str,
    scenario: str = "task",
    train: str = OPTIMIZERS[0],
    model: str = MLP,
    tasks: int = 3,
    duration: str = "epochs: 2",
) -> Experiment:
    """``method`` is a name, or YAML of one label with its options."""
    methods = method[1:-1] if method.startswith("{") else f"{method}: {{}}"
    return tiny(methods, scenario, model, train, tasks=tasks, duration=duration)


def method_on(*args: Any, **named: Any) -> Method:
    return set_up(experiment(*args, **named))


def quick_fit(method: Method, optimizer: str = "sgd", steps: int = 6) -> Fit:
    return fit_of(method, steps, optimizer=optimizer, lr=0.05)


def learn(method: Method, task_ids: Sequence[int], fit: Fit | None = None) -> None:
    learn_with(method, task_ids, fit or quick_fit(method))
