"""SD-LoRA: the direction of every earlier low-rank branch is fixed, its magnitude learns on."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from lora_cl.adapters import ScaledBranches, add_adapter, lora_delta, one_branch, remove_adapter
from lora_cl.adapters.lora import Init, init_factors
from lora_cl.benchmarks import Task
from lora_cl.methods.summed import CURRENT, PAST, Factors, SummedBranches, factors, stack_branches
from lora_cl.models import trainable_only
from lora_cl.options import OptionsBase

Magnitudes = Literal["kept", "restart"]


class SDLoRAOptions(OptionsBase):
    """`magnitude`: with which a branch begins. `magnitudes` of earlier branches at the next task:
    `restart`, all begin at `magnitude` again and directions are B A / (||A|| ||B||), as in the
    authors' code; `kept`, they go on from where they are and directions have length 1.
    """

    rank: int = Field(default=8, ge=1, le=65536)
    """r of every task's branch."""
    targets: str | list[str] = "all-linear"
    """The layers to adapt, as those of `lora`."""
    init: Init = "kaiming"
    """The start of A; B starts at 0."""
    magnitude: Annotated[float, Field(gt=0.0)] = 0.8
    """What a branch's magnitude begins with."""
    magnitudes: Magnitudes = "restart"
    """When the next task begins: `restart`, all at `magnitude` again; `kept`, where they are."""


class SDLoRA(SummedBranches):
    """Wu et al. 2025, arXiv 2501.13198: h = (W0 + sum_{k<t} a_k D_k + a_t B_t A_t) x.

    D_k is a fixed multiple of B_k A_k once task k is learned. During task t the branch B_t, A_t
    trains, and the magnitudes a_1, ..., a_t of all tasks: what was learned can be drawn on or faded
    out. Every task is answered by the sum. Magnitudes are a layer's own, where the authors' code
    has one a task for all layers.
    """

    Options: ClassVar[type[OptionsBase]] = SDLoRAOptions
    summary: ClassVar[str] = "a LoRA per task, summed: old directions fixed, magnitudes learn on"

    def make_branch(self, task: Task, layer: str, base: nn.Module) -> Any:
        generator = torch.Generator().manual_seed(self.seed_for("adapter", task.id, layer))
        A, B = init_factors(base, self.options.rank, self.options.init, generator)
        return one_branch(A, B, self.options.magnitude)

    def freeze_for(self, task: Task) -> None:
        earlier = [branches.magnitude for branches in self._scaled(self.past()).values()]
        trainable_only(self.network, [*self.current().values(), *earlier, self.head(task.id)])

    def _append_to_past(self) -> None:
        past, backbone = self._scaled(self.past()), self.network.backbone
        joined: dict[str, ScaledBranches] = {}
        for layer, branch in self._scaled(self.current()).items():
            new = fixed_direction(branch, self.options.magnitudes)
            joined[layer] = side_by_side(past[layer], new) if past else new
            joined[layer].requires_grad_(False)
            if self.options.magnitudes == "restart":
                joined[layer].magnitude.weight.fill_(self.options.magnitude)
        if past:
            remove_adapter(backbone, PAST)
        remove_adapter(backbone, CURRENT)
        add_adapter(backbone, PAST, lambda layer, base: joined[layer])

    @staticmethod
    def _scaled(branches: Any) -> dict[str, ScaledBranches]:
        return cast("dict[str, ScaledBranches]", branches)

    @torch.no_grad()
    def details(self) -> dict[str, Any]:
        """Per layer the magnitude of each task's branch, with its direction of length 1."""
        past, found = self._scaled(self.past()), {}
        for layer, branch in self._scaled(self.current()).items():
            whole = branch.magnitude.weight * norm_of(factors(branch), "kept")
            values = [*(past[layer].magnitude.weight if layer in past else []), whole[0]]
            numbers = [float(value) for value in values]
            found[layer] = [number if math.isfinite(number) else None for number in numbers]
        return {"magnitudes": found}


def norm_of(branch: Factors, magnitudes: Magnitudes) -> Tensor:
    """What B A is divided by to be a direction: ||B A||_F, or ||A||_F ||B||_F, which is no less."""
    A, B = branch
    norm: Tensor = lora_delta(A, B, 1.0).norm() if magnitudes == "kept" else A.norm() * B.norm()
    return norm


@torch.no_grad()
def fixed_direction(branch: ScaledBranches, magnitudes: Magnitudes) -> ScaledBranches:
    """The same change of the weight as a magnitude times a direction; 0 as it is."""
    (A, B), norm = factors(branch), norm_of(factors(branch), magnitudes)
    norm = torch.where(norm > 0, norm, torch.ones_like(norm))
    magnitude = branch.magnitude.weight.detach() * norm
    return ScaledBranches(A / norm, B.clone(), branch.branch, magnitude)


@torch.no_grad()
def side_by_side(first: ScaledBranches, second: ScaledBranches) -> ScaledBranches:
    """Both in one, those of ``second`` after those of ``first``."""
    one, other = factors(first), factors(second)
    A, B = stack_branches(one, other)
    count = len(first.magnitude.weight)
    groups = len(one[0]) // one[1].shape[1]  # In a grouped convolution each group's stand together.
    rows = [first.branch, second.branch + count]
    branch = torch.cat([row.reshape(groups, -1) for row in rows], dim=1).flatten()
    magnitudes = torch.cat([first.magnitude.weight, second.magnitude.weight]).detach()
    return ScaledBranches(A, B, branch, magnitudes)
