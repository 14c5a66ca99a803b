"""Methods whose tasks share a backbone, and what their tests ask of all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from method_cases import (
    MLP,
    SCENARIOS,
    fit_of,
    learn_with,
    run_one,
    set_up,
    tiny,
)

from lora_cl.config import Experiment
from lora_cl.methods import Fit, Method

ADAM = "optimizer: adam, lr: 0.01"
CASES = [(scenario, adapter) for scenario in SCENARIOS for adapter in ("", "lora")]


def experiment(
    method: str, scenario: str = "task", model: str = MLP, train: str = ADAM
) -> Experiment:
    """Nine steps a task; ``method`` is YAML, the options of the label ``tried``."""
    return tiny(f"tried: {method}", scenario, model, train, duration="epochs: 3")


def method_on(method: str, scenario: str = "task", model: str = MLP) -> Method:
    return set_up(experiment(method, scenario, model))


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
    return fit_of(method, steps, lr=lr, each=each)


def learn(method: Method, task_ids: Sequence[int], **named: Any) -> None:
    learn_with(method, task_ids, sgd_fit(method, **named))


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
