"""PackNet: tasks share one network, each owning some of its weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lora_cl.benchmarks import Task
from lora_cl.errors import ConfigError
from lora_cl.methods.method import Fit, Method
from lora_cl.methods.packing import bits_for, pack, unpack
from lora_cl.methods.routing import RouterOptions
from lora_cl.models import TaskNetwork, trainable_only
from lora_cl.options import OptionsBase

PRUNABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
FREE = 0


class PackNetOptions(RouterOptions):
    """`keep`: the share of each layer's free weights that a task keeps.

    equal: 1 / (T - k) for task k of T (from 0), so that all tasks own as much. A fixed share
    leaves (1 - keep)^T of a layer free. `retrain_share`: the part of a task's steps that follows
    the pruning; the authors train for 20 epochs and retrain for 10.
    """

    keep: Annotated[float, Field(gt=0.0, le=1.0)] | Literal["equal"] = "equal"
    """The share of each layer's free weights that a task keeps; `equal`: all tasks own as much.
    A fixed share leaves (1 - keep)^T free."""
    retrain_share: Annotated[float, Field(ge=0.0, lt=1.0)] = 1 / 3
    """The part of a task's steps that comes after the pruning."""


def packnet_kept(free: int, share: float) -> int:
    """How many of a layer's free weights a task keeps: the rounded share, at least one."""
    return min(free, max(1, round(share * free)))


def packnet_prune(weight: Tensor, free: Tensor, kept: int) -> Tensor:
    """The mask of the ``kept`` largest |weight| among the ``free`` ones of a layer.

    Mallya & Lazebnik 2018 (arXiv 1711.05769), section 3. ``weight`` float and ``free`` bool of
    one shape; of equal magnitudes the first ones win.
    """
    candidates = torch.nonzero(free.flatten()).squeeze(1)
    magnitude = weight.detach().abs().flatten()[candidates]
    chosen = torch.sort(magnitude, descending=True, stable=True).indices[:kept]
    mask = torch.zeros_like(free.flatten())
    mask[candidates[chosen]] = True
    return mask.view_as(free)


class PackNet(Method):
    """Mallya & Lazebnik 2018, arXiv 1711.05769: train, prune, retrain, freeze what was kept.

    Task k uses the weights that tasks <= k own. Biases, norms and whatever else is no weight of
    a linear or convolutional layer train on the first task only.
    """

    Options: ClassVar[type[OptionsBase]] = PackNetOptions
    summary: ClassVar[str] = "tasks share one network: train, prune, retrain, freeze what is kept"
    private_heads = True

    @property
    def isolated(self) -> bool:
        return True

    def prepare(self) -> None:
        self.bits = bits_for(self.benchmark.n_tasks + 1)
        self.moving = FREE
        self.guards: list[tuple[nn.Parameter, Tensor, Tensor]] | None = None
        if not self._weights():
            raise ConfigError("packnet: the model has no linear or convolutional layer", "model")
        for name, weight in self._weights().items():
            self._check_room(name, weight.numel())
            self._set_owners(name, torch.full_like(weight, FREE, dtype=torch.int32))

    def freeze_for(self, task: Task) -> None:
        rest = [self.network.backbone] if len(self.learned) == 1 else []
        trainable_only(self.network, [*rest, self.head(task.id)])
        for weight in self._weights().values():
            weight.requires_grad_(True)

    def learn(self, task: Task, fit: Fit) -> None:
        share = self._share(task.id)
        # What keeps all its weights has nothing to mend by retraining.
        pruning = 1.0 - self.options.retrain_share if share < 1.0 else 1.0
        self.moving = FREE
        fit([task], end=pruning)
        self._keep_largest(task.id, share)
        self.moving = _owner(task.id)
        if pruning < 1.0:
            fit([task], start=pruning)
        self.guards = None

    @torch.no_grad()
    def _keep_largest(self, task_id: int, share: float) -> None:
        """Gives the largest free weights of every layer to the task and zeroes the others."""
        for name, weight in self._weights().items():
            owners = self._owners(name)
            free = owners == FREE
            kept = packnet_prune(weight, free, packnet_kept(int(free.sum()), share))
            self._set_owners(name, owners.masked_fill(kept, _owner(task_id)))
            weight.masked_fill_(free & ~kept, 0.0)

    def _share(self, task_id: int) -> float:
        keep = self.options.keep
        return 1.0 / (self.benchmark.n_tasks - task_id) if keep == "equal" else float(keep)

    # Weight decay and momentum move a weight whose gradient is zero: it is put back.

    def start_fit(self, tasks: Any, network: TaskNetwork) -> None:
        self.guards = None

    def after_backward(self) -> None:
        if self.guards is None:  # Not in start_fit: a resumed fit gets its owners after that.
            self.guards = [
                (weight, self._owners(name) == self.moving, weight.detach().clone())
                for name, weight in self._weights().items()
            ]
        for weight, moves, _ in self.guards:
            assert weight.grad is not None
            weight.grad.mul_(moves)

    @torch.no_grad()
    def after_step(self, step: int, total_steps: int) -> None:
        assert self.guards is not None
        for weight, moves, fixed in self.guards:
            weight.copy_(torch.where(moves, weight, fixed))

    @contextmanager
    def view(self, task_id: int) -> Iterator[TaskNetwork]:
        """For the latest task the network itself, whose free weights train or are zero.

        For an earlier one the same modules, biases and norms around masked weights.
        """
        if task_id == self.learned[-1]:
            yield self.task_network([task_id])
        else:
            yield self.task_network([task_id], self._masked_backbone(task_id))

    @torch.no_grad()
    def _masked_backbone(self, task_id: int) -> nn.Module:
        backbone = self.network.backbone
        tensors = [*backbone.parameters(), *backbone.buffers()]
        masked = copy.deepcopy(backbone, {id(tensor): tensor for tensor in tensors})
        for name, weight in self._weights().items():
            owners = self._owners(name)
            used = (owners != FREE) & (owners <= _owner(task_id))
            layer = masked.get_submodule(name)
            layer.weight = nn.Parameter(weight.masked_fill(~used, 0.0), requires_grad=False)
        return masked

    # The owners: 0 for a free weight, k + 1 for one of task k, packed.

    def _weights(self) -> dict[str, nn.Parameter]:
        """The weights that are packed, by the name of their layer."""
        weights: dict[str, nn.Parameter] = {}
        for name, module in self.network.backbone.named_modules():
            if isinstance(module, PRUNABLE):
                assert isinstance(module.weight, nn.Parameter)
                weights[name] = module.weight
        return weights

    def _owners(self, name: str) -> Tensor:
        weight = self._weights()[name]
        return unpack(self.kept[f"owners.{name}"], weight.numel()).view_as(weight)

    def _set_owners(self, name: str, owners: Tensor) -> None:
        self.kept[f"owners.{name}"] = pack(owners, self.bits)

    def _check_room(self, layer: str, weights: int) -> None:
        """Refuses to start what would leave a task without a free weight in a layer."""
        free = weights
        for task_id in range(self.benchmark.n_tasks):
            if free == 0:
                raise ConfigError(
                    f"packnet: no free weight is left in layer {layer} ({weights} weights) for "
                    f"task {task_id} of {self.benchmark.n_tasks}; lower keep, or use keep: equal "
                    f"and a wider model"
                )
            free -= packnet_kept(free, self._share(task_id))

    def trained_parameters(self) -> int:
        packed = {id(weight) for weight in self._weights().values()}
        trained = [p for group in self.param_groups() for p in group["params"]]
        count: int = sum(p.numel() for p in trained if id(p) not in packed)
        for name in self._weights():
            count += int((self._owners(name) == self.moving).sum())
        return count

    def details(self) -> dict[str, Any]:
        """How many weights of each layer every task owns, and how many are free."""
        occupancy = {}
        for name, weight in self._weights().items():
            counts = torch.bincount(
                self._owners(name).flatten().cpu().long(), minlength=self.benchmark.n_tasks + 1
            ).tolist()
            occupancy[name] = {"weights": weight.numel(), "free": counts[0], "tasks": counts[1:]}
        return {"occupancy": occupancy, "bits_per_owner": self.bits}


def _owner(task_id: int) -> int:
    return task_id + 1
