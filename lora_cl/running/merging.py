"""Adapters of a finished run put together in one network, and what that is worth."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lora_cl.adapters import (
    adapted_layers,
    default_weight,
    merged,
    require_merge,
)
from lora_cl.adapters.merging import How
from lora_cl.methods.adapted import AdapterPerTask
from lora_cl.models import TaskNetwork
from lora_cl.records.layout import MODEL
from lora_cl.running.exporting import head_file, names_of, network_file, write_folder
from lora_cl.training import loop

Deltas = dict[str, Tensor]


@dataclass(frozen=True)
class Merge:
    """How adapters are put together; ``weights`` None are the usual ones of ``how``, ``rank`` None
    is the largest of theirs."""

    tasks: Sequence[int]
    how: How
    weights: Sequence[float] | None = None
    density: float = 0.2
    rank: int | None = None


@dataclass(frozen=True)
class Worth:
    """The accuracy on one task: without any adapter, with its own, and with each merge."""

    task: int
    name: str
    base: float
    own: float
    merged: list[float]


def merged_deltas(method: AdapterPerTask, merge: Merge) -> Deltas:
    """The change of every adapted layer's weight. MethodError for what cannot be merged."""
    tasks = list(dict.fromkeys(merge.tasks))
    weights = merge.weights or [default_weight(merge.how, len(tasks))] * len(tasks)
    require_merge(merge.how, len(tasks), weights, merge.density)
    rank = merge.rank or int(method.options.rank)
    return method.merged_deltas(tasks, merge.how, weights, merge.density, rank)


def merged_backbone(method: AdapterPerTask, deltas: Deltas) -> nn.Module:
    """A copy of the base, plain, with ``deltas`` in its weights."""
    plain = merged(method.network.backbone)  # Nothing is active.
    for layer in adapted_layers(method.network.backbone):
        with torch.no_grad():
            plain.get_parameter(f"{layer}.weight").add_(deltas[layer])
    return plain.eval()


def worth(method: AdapterPerTask, merges: Sequence[Merge]) -> Iterator[Worth]:
    """Accuracies on every task that is in one of the merges, on its test set, with its own head."""
    networks = [merged_backbone(method, merged_deltas(method, one)) for one in merges]
    base = merged(method.network.backbone)
    for task_id in sorted({task for one in merges for task in one.tasks}):
        task = method.benchmark.task(task_id)
        samples = task.test()
        with method.view(task_id) as network:
            head = copy.deepcopy(network.heads[0])
            own = loop.accuracy(network, samples.x, samples.y)
        others = [
            loop.accuracy(TaskNetwork(backbone, [head], {task_id: 0}), samples.x, samples.y)
            for backbone in (base, *networks)
        ]
        yield Worth(task_id, task.name, others[0], own, others[1:])


def write_merged(method: AdapterPerTask, merge: Merge, folder: Path) -> None:
    """The merged network by the names of the library that made it, and each task's head."""
    names = names_of(method)
    backbone = merged_backbone(method, merged_deltas(method, merge))
    state = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    files = {MODEL: network_file(state, names)}
    for task in merge.tasks:
        files[f"head-{task:03d}.safetensors"] = head_file(method.bank[task])
    write_folder(folder, files)
