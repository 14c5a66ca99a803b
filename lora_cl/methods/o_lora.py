"""O-LoRA: a new low-rank branch per task, kept orthogonal to the earlier ones by a penalty."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lora_cl.adapters import LoRA, make_lora
from lora_cl.adapters.layer import Factor
from lora_cl.benchmarks import Task
from lora_cl.methods.shared import LowRankOptions
from lora_cl.methods.summed import SummedBranches, factors
from lora_cl.models import trainable_only
from lora_cl.options import OptionsBase

Overlap = Literal["squared", "absolute"]


class OLoRAOptions(LowRankOptions):
    """The options of a LoRA, and of the penalty on its overlap with the earlier ones.

    `orthogonality`: the penalty's weight, lambda. `overlap`: `squared` sums the squares of
    A_i A_t^T as the paper has it, `absolute` sums its magnitudes as the authors' code does.
    """

    orthogonality: float = Field(default=0.5, ge=0.0)
    """lambda, the weight of the penalty on the overlap with earlier branches."""
    overlap: Overlap = "squared"
    """Squares of A_i A_t^T as in the paper, or magnitudes as in the authors' code."""


class OLoRA(SummedBranches):
    """Wang et al. 2023, arXiv 2310.14152, section 3.2.

    During task t, A_t and B_t train and the earlier branches are frozen; the loss is the task's
    plus lambda sum_{i<t} L_orth(A_i, A_t). At test time every input, whatever its task, goes
    through W0 + s sum_i B_i A_i, which the paper merges into one weight: a later branch changes
    what earlier tasks compute as far as their inputs reach into the rows of its A. The paper's
    tasks share the outputs of a language model; here they have the scenario's heads.
    """

    Options: ClassVar[type[OptionsBase]] = OLoRAOptions
    summary: ClassVar[str] = "a new LoRA per task, orthogonal to the earlier ones, all summed"

    def prepare(self) -> None:
        super().prepare()
        self._pairs: dict[str, tuple[Tensor, Factor, int]] = {}

    def make_branch(self, task: Task, layer: str, base: nn.Module) -> LoRA:
        o = self.options
        return make_lora(
            base,
            rank=o.rank,
            alpha=o.alpha,
            init=o.init,
            scaling=o.scaling,
            generator=torch.Generator().manual_seed(self.seed_for("adapter", task.id, layer)),
        )

    def freeze_for(self, task: Task) -> None:
        trainable_only(self.network, [*self.current().values(), self.head(task.id)])
        past = self.past()
        self._pairs = {
            layer: (factors(past[layer])[0], branch.lora_A, groups_of(branch))
            for layer, branch in self.current().items()
            if past
        }

    def penalty(self) -> Tensor | None:
        if not self._pairs or not self.options.orthogonality:
            return None
        penalty: Tensor = self.options.orthogonality * torch.stack(self._overlaps()).sum()
        return penalty

    def _overlaps(self) -> list[Tensor]:
        return [
            branch_overlap(A_past, A.weight, self.options.overlap, groups)
            for A_past, A, groups in self._pairs.values()
        ]

    @torch.no_grad()
    def details(self) -> dict[str, Any]:
        """How far the last branch overlaps with the earlier ones, by layer; null if diverged."""
        values = [float(value) for value in self._overlaps()]
        overlaps = [value if math.isfinite(value) else None for value in values]
        return {"overlap": dict(zip(self._pairs, overlaps, strict=True))}


def groups_of(branch: LoRA) -> int:
    """The groups of the convolution that ``branch`` adapts; 1 for a linear layer."""
    return branch.lora_A.weight.shape[0] // branch.lora_B.weight.shape[1]


def branch_overlap(A_past: Tensor, A: Tensor, overlap: Overlap, groups: int = 1) -> Tensor:
    """sum_{i<t} L_orth(A_i, A_t), a scalar (Wang et al. 2023, section 3.2).

    L_orth sums over the elements of A_i A_t^T: their squares (``squared``) or their magnitudes
    (``absolute``). ``A_past`` (r (t - 1), ...) holds the A_i one below the other, ``A`` (r, ...) is
    A_t; a row is all that one component reads. Rows of different ``groups`` of a convolution read
    different channels and are orthogonal as they are.
    """
    products = A_past.reshape(groups, -1, A[0].numel()) @ A.reshape(groups, -1, A[0].numel()).mT
    return products.abs().sum() if overlap == "absolute" else products.square().sum()
