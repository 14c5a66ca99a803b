"""Is what training changes of low rank? What runs without adapters did to their weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lora_cl.adapters.layer import adaptable
from lora_cl.adapters.subspaces import Decomposition, decomposed, effective_rank, energy
from lora_cl.errors import MethodError
from lora_cl.methods import Method
from lora_cl.methods.full import Full
from lora_cl.methods.independent import Independent
from lora_cl.models import TaskNetwork
from lora_cl.running.base import base_network
from lora_cl.running.loading import config_of, loaded
from lora_cl.running.machine import resolve_device
from lora_cl.training import loop

RANKS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class LayerChange:
    """What was done to the weight of a layer: ``relative`` is its norm as a share of the weight's,
    ``full_rank`` the largest rank there can be, ``energy`` the share of its square in the first r
    singular values, by rank."""

    task: int
    layer: str
    norm: float
    relative: float
    full_rank: int
    effective_rank: float
    energy: list[float | None]
    singular_values: list[float]


@dataclass(frozen=True)
class Cut:
    """The test accuracy on a task with all changes cut to a rank, by rank; without any; and whole.

    What is no weight of a linear layer or convolution stays as it was trained, as does the head.
    """

    task: int
    name: str
    without: float
    by_rank: list[float]
    whole: float


@dataclass(frozen=True)
class Analysis:
    """``tasks`` of a run whose tasks share one network are those it was trained on last."""

    ranks: list[int]
    layers: list[LayerChange]
    cuts: list[Cut]


def analyze(
    folder: Path, ranks: Sequence[int], data_dir: Path | None, device: str = "cpu"
) -> Analysis:
    """What training changed in a run of `full` or `independent`, against the base that it began
    with, which is made again: its data sets are needed. MethodError for other methods.

    Of `full`, whose tasks share one network, the changes are those of all tasks together; they are
    told under the last one.
    """
    method, result = loaded(folder, device, data_dir)
    _require_whole_weights(method)
    config = config_of(folder, result)
    (seed,) = config.seeds
    place, content = resolve_device(device), result.get("content") or {}
    base = base_network(config, seed, method.benchmark, place, data_dir, content).backbone
    own = {
        name: layer.get_parameter("weight").detach()
        for name, layer in base.named_modules()
        if adaptable(layer)
    }
    layers: list[LayerChange] = []
    cuts: list[Cut] = []
    changes: dict[str, Decomposition] = {}
    for task in method.learned:
        with method.view(task) as network:
            if not changes or isinstance(method, Independent):
                changes = _changes(network.backbone, own)
                last = task if isinstance(method, Independent) else method.learned[-1]
                layers += [_told(last, n, c, own[n], ranks) for n, c in changes.items()]
            cuts.append(_cut(method, task, network, own, changes, ranks))
    return Analysis(list(ranks), layers, cuts)


def _require_whole_weights(method: Method) -> None:
    adapted = getattr(method.options, "adapter", None) or getattr(method.options, "hidden", None)
    if type(method) not in (Full, Independent) or adapted:
        kind = type(method).__name__.lower()
        raise MethodError(
            f"{kind}{' with options of its own' if adapted else ''}: what is analyzed is full and "
            "independent, which change whole weights of the base"
        )


def _changes(backbone: nn.Module, own: Mapping[str, Tensor]) -> dict[str, Decomposition]:
    return {
        name: decomposed(backbone.get_parameter(f"{name}.weight").detach() - weight)
        for name, weight in own.items()
    }


def _told(
    task: int, layer: str, change: Decomposition, weight: Tensor, ranks: Sequence[int]
) -> LayerChange:
    return LayerChange(
        task=task,
        layer=layer,
        norm=change.norm,
        relative=change.norm / float(torch.linalg.vector_norm(weight)),
        full_rank=min(weight.flatten(1).shape),
        effective_rank=effective_rank(change.S),
        energy=[energy(change.S, r) for r in ranks],
        singular_values=[float(f"{value:.6g}") for value in change.S.tolist()],
    )


def _cut(
    method: Method,
    task_id: int,
    network: TaskNetwork,
    own: Mapping[str, Tensor],
    changes: Mapping[str, Decomposition],
    ranks: Sequence[int],
) -> Cut:
    task = method.benchmark.task(task_id)
    samples = task.test()
    y = samples.y + network.offsets[task_id]
    shrunk = copy.deepcopy(network)

    def accuracy(rank: int) -> float:
        for name, change in changes.items():
            weight = shrunk.backbone.get_parameter(f"{name}.weight")
            low = (change.U[:, :rank] * change.S[:rank]) @ change.V[:rank]
            with torch.no_grad():
                weight.copy_(own[name] + low.to(weight).reshape(weight.shape))
        return loop.accuracy(shrunk, samples.x, y)

    whole = loop.accuracy(network, samples.x, y)
    return Cut(task_id, task.name, accuracy(0), [accuracy(rank) for rank in ranks], whole)
