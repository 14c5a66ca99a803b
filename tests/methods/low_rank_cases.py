"""The LoRA family on tiny synthetic tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from method_cases import (
    MLP,
    OPTIMIZERS,
    fit_of,
    handed_over,
    learn_with,
    run_interrupted,
    run_one,
    same_result,
    seen,
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


def check_going_on_from_state(make: Callable[[], Method]) -> None:
    whole, second = handed_over(make, learn)
    assert [seen(whole, k) for k in range(3)] == [seen(second, k) for k in range(3)]
    assert whole.details() == second.details()
    assert whole.kept.keys() == second.kept.keys()
    assert all(torch.equal(v, second.kept[k]) for k, v in whole.kept.items())


def check_kill_and_resume(one: Experiment, folder: Path, kill_after: Sequence[int]) -> None:
    """An interrupted run ends like a whole one, in all but time, memory and place."""
    killed = run_interrupted(one, folder / "killed", kill_after)
    same_result(run_one(one, folder / "whole"), killed)
