"""InfLoRA: a low-rank branch per task whose input directions no earlier task uses."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from lora_cl.adapters import LoRA, adapted_layers
from lora_cl.adapters.lora import factor_shapes
from lora_cl.benchmarks import Task
from lora_cl.errors import MethodError
from lora_cl.methods.input_space import (
    Energy,
    InputSpace,
    branch_rows,
    input_energies,
    remember,
    threshold,
)
from lora_cl.methods.method import Fit
from lora_cl.methods.shared import Targets
from lora_cl.methods.summed import SummedBranches, factors
from lora_cl.models import trainable_only
from lora_cl.options import OptionsBase

REMEMBERED, FREE = "remembered.", "free."
SCALES: dict[Any, float] = {"code": 3**-0.5, "paper": 1.0}


class InfLoRAOptions(OptionsBase):
    """`epsilon`: the share of the energy of a task's inputs to remember; grows to 1 over the tasks.

    `energy`: what the authors' code counts, the squared singular values of H H^T, or those of
    the inputs H as in the paper. `scale`: the factor s on the branches, whose A has rows of length
    1: 1 / sqrt(3) as in the authors' code, 1 as in the paper, or a number. The classifier of the
    paper is `classifier: local`.
    """

    rank: int = Field(default=8, ge=1, le=65536)
    """r of every task's branch."""
    targets: Targets = "all-linear"
    """The layers to adapt, as those of `lora`."""
    scale: Annotated[float, Field(gt=0.0)] | Energy = "code"
    """s, where the rows of A have length 1: `code`, 1/sqrt(3); `paper`, 1; or a number."""
    epsilon: float = Field(default=0.95, gt=0.0, le=1.0)
    """The share of the energy of a task's inputs to remember; it grows to 1 over the tasks."""
    energy: Energy = "code"
    """What epsilon is a share of: `code`, the squared singular values of H H^T; `paper`, those
    of H."""


class InfLoRA(SummedBranches):
    """Liang & Li 2024, arXiv 2404.00228, algorithm 1; A and B change names there.

    Before task t the rows of A_t are set to the directions in which its layer inputs vary most,
    outside the space that earlier tasks' inputs span; then only B_t trains. Afterwards the space
    takes in the inputs of task t (DualGPM). Where earlier inputs lie wholly in that space, B_t A_t
    does nothing to them. Branches are added in every layer of ``targets``, where the paper adapts
    the keys and values of a transformer.
    """

    Options: ClassVar[type[OptionsBase]] = InfLoRAOptions
    summary: ClassVar[str] = "a LoRA per task on input directions that no earlier task uses"

    def prepare(self) -> None:
        super().prepare()
        for name, layer in adapted_layers(self.network.backbone).items():
            if getattr(layer.base, "groups", 1) > 1:
                raise MethodError(
                    f"layer {name} is a convolution with groups, which has no single space of "
                    "inputs; leave it out of targets"
                )

    def make_branch(self, task: Task, layer: str, base: nn.Module) -> LoRA:
        weight = base.get_parameter("weight")
        A, B = (weight.new_zeros(shape) for shape in factor_shapes(base, self.options.rank))
        return LoRA(A, B, SCALES.get(self.options.scale, self.options.scale))

    def freeze_for(self, task: Task) -> None:
        factors = [branch.lora_B for branch in self.current().values()]
        trainable_only(self.network, [*factors, self.head(task.id)])

    def learn(self, task: Task, fit: Fit) -> None:
        x = task.train().x
        for layer, G in input_energies(self.network.backbone, x, self.options.energy).items():
            A = self.current()[layer].lora_A.weight
            A.copy_(branch_rows(G, self._space(layer), len(A)).view_as(A))
        fit([task])
        share = threshold(self.options.epsilon, task.id, self.benchmark.n_tasks)
        for layer, G in input_energies(self.network.backbone, x, self.options.energy).items():
            self._keep(layer, remember(G, self._space(layer), share))

    def _space(self, layer: str) -> InputSpace | None:
        """What earlier tasks' inputs of ``layer`` span; None before the first task ended."""
        for prefix in (REMEMBERED, FREE):
            if prefix + layer in self.kept:
                return InputSpace(self.kept[prefix + layer], free=prefix == FREE)
        return None

    def _keep(self, layer: str, space: InputSpace) -> None:
        self.kept.pop(REMEMBERED + layer, None)
        self.kept[(FREE if space.free else REMEMBERED) + layer] = space.basis

    def details(self) -> dict[str, Any]:
        """Per layer: the directions each task could use; the dimensions remembered, of how many."""
        branches, spaces, past = {}, {}, self.past()
        for layer, branch in self.current().items():
            A = factors(branch)[0]
            if past:
                A = torch.cat([factors(past[layer])[0], A])
            used = A.flatten(1).any(dim=1).reshape(-1, self.options.rank).sum(dim=1)
            branches[layer] = used.tolist()
            space = self._space(layer)
            spaces[layer] = [space.dimension if space else 0, A[0].numel()]
        return {"directions": branches, "remembered": spaces}
