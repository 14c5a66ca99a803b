"""What the adapters of a finished run are: how large, of what rank, and where they meet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from lora_cl.adapters import adapted_layers
from lora_cl.adapters.subspaces import Decomposition, decomposed, effective_rank, overlap
from lora_cl.errors import MethodError
from lora_cl.methods import Method
from lora_cl.methods.adapted import AdapterPerTask
from lora_cl.methods.method import byte_count


@dataclass(frozen=True)
class AdapterOfTask:
    """``norm`` is the Frobenius norm of all changes of weights together; ``rank`` the mean over the
    layers; ``accuracy`` that after the last task, None where it was not measured."""

    task: int
    name: str
    kind: str
    rank: float
    layers: int
    parameters: int
    bytes: int
    norm: float
    accuracy: float | None


@dataclass(frozen=True)
class LayerOfTask:
    """The change of one layer's weight: its norm, that as a share of the weight's own, its
    effective rank and its singular values."""

    layer: str
    norm: float
    relative: float
    effective_rank: float
    singular_values: list[float]


Space = dict[str, Decomposition]


def require_bank(method: Method) -> AdapterPerTask:
    """``method``, if it keeps an adapter per task; MethodError otherwise."""
    if isinstance(method, AdapterPerTask):
        return method
    kind = type(method).__name__.lower()
    raise MethodError(f"{kind} keeps no adapter per task; lora, dora, adalora and qlora do")


def require_task(method: Method, task: int) -> int:
    """``task``, if its adapter is in the bank; MethodError otherwise."""
    if task not in method.bank:
        known = ", ".join(map(str, sorted(method.bank)))
        raise MethodError(f"task {task} is not in the bank; there are: {known}")
    return task


def listed(method: Method, result: Mapping[str, Any]) -> list[AdapterOfTask]:
    """Every task's adapter, in a line; ``result`` is the run's record."""
    bank = require_bank(method)
    last: Sequence[float | None] = result["accuracy_matrix"][-1]
    found = []
    for task in sorted(bank.bank):
        sealed = bank.bank[task]
        adapter = {k: t for k, t in sealed.items() if k.startswith("backbone.")}
        spaces = _changes(bank, task)
        found.append(
            AdapterOfTask(
                task,
                result["tasks"][task]["name"],
                str(bank.peft_options()["kind"]),
                sum(len(s.S) for s in spaces.values()) / len(spaces),
                len(spaces),
                sum(tensor.numel() for tensor in adapter.values()),
                byte_count(sealed),
                math.sqrt(sum(space.norm**2 for space in spaces.values())),
                last[task],
            )
        )
    return found


def layers_of(method: Method, task: int) -> list[LayerOfTask]:
    """Every layer that the adapter of ``task`` changes."""
    bank = require_bank(method)
    require_task(bank, task)
    layers = adapted_layers(bank.network.backbone)
    found = []
    for layer, space in _changes(bank, task).items():
        own = float(torch.linalg.vector_norm(cast(Tensor, layers[layer].base.weight)))
        values = [float(f"{value:.6g}") for value in space.S.tolist()]
        share = space.norm / own if own else math.inf
        found.append(LayerOfTask(layer, space.norm, share, effective_rank(space.S), values))
    return found


@dataclass(frozen=True)
class Overlaps:
    """The overlap of the subspaces of each two tasks, the mean over the layers, (T, T): of what
    goes into the layers and of what comes out; and what two random subspaces would have."""

    tasks: list[int]
    inputs: list[list[float | None]]
    outputs: list[list[float | None]]
    by_chance: tuple[float, float]


def overlaps(method: Method) -> Overlaps:
    """How much the tasks' adapters act in the same directions."""
    bank = require_bank(method)
    tasks = sorted(bank.bank)
    spaces = [_changes(bank, task) for task in tasks]

    def matrix(rows: str) -> list[list[float | None]]:
        return [[_mean_overlap(one, other, rows) for other in spaces] for one in spaces]

    chance = []
    for side in (0, 1):  # Of d_in, then of d_out.
        shares = [
            len(space.S) / (space.V.shape[1], space.U.shape[0])[side]
            for of_task in spaces
            for space in of_task.values()
        ]
        chance.append(sum(shares) / len(shares))
    return Overlaps(tasks, matrix("V"), matrix("U"), (chance[0], chance[1]))


def _mean_overlap(one: Space, other: Space, rows: str) -> float | None:
    found = []
    for layer in one:
        V1, V2 = (space[layer].V if rows == "V" else space[layer].U.T for space in (one, other))
        if (value := overlap(V1, V2)) is not None:
            found.append(value)
    return sum(found) / len(found) if found else None


def _changes(bank: AdapterPerTask, task: int) -> Space:
    """The change of every adapted layer's weight, decomposed."""
    with bank.opened(task) as layers:
        return {
            layer: decomposed(adapter.factors() or adapter.delta(base))
            for layer, (adapter, base) in layers.items()
        }
