"""InfLoRA: a low-rank branch per task whose input directions no earlier task uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from lora_cl.adapters import LoRA, adapted_layers
from lora_cl.adapters.lora import factor_shapes
from lora_cl.benchmarks import Benchmark, Task
from lora_cl.errors import ConfigError, MethodError
from lora_cl.methods.input_space import (
    Energy,
    InputSpace,
    branch_rows,
    input_energies,
    remember,
    threshold,
)
from lora_cl.methods.method import Fit
from lora_cl.methods.summed import SummedBranches, factors
from lora_cl.models import TaskNetwork, trainable_only
from lora_cl.options import OptionsBase

REMEMBERED, FREE = "remembered.", "free."
SCALES: dict[Any, float] = {"code": 3**-0.5, "paper": 1.0}


class InfLoRAOptions(OptionsBase):
    """`epsilon`: the share of the energy of a task's inputs to remember; grows to 1 over the tasks.

    `energy`: what the authors' code counts, the squared singular values of H H^T, or those of
    the inputs H as in the paper. `scale`: the factor s on the branches, whose A has rows of length
    1: 1 / sqrt(3) as in the authors' code, 1 as in the paper, or a number. `classifier` in
    class-incremental runs: `all-seen`, one that trains on all classes seen so far, as other methods
    have it here, or `current-task`, one per task that trains on its own classes alone, as in the
    paper.
    """

    rank: int = Field(default=8, ge=1, le=65536)
    """r of every task's branch."""
    targets: str | list[str] = "all-linear"
    """The layers to adapt, as those of `lora`."""
    scale: Annotated[float, Field(gt=0.0)] | Energy = "code"
    """s, where the rows of A have length 1: `code`, 1/sqrt(3); `paper`, 1; or a number."""
    epsilon: float = Field(default=0.95, gt=0.0, le=1.0)
    """The share of the energy of a task's inputs to remember; it grows to 1 over the tasks."""
    energy: Energy = "code"
    """What epsilon is a share of: `code`, the squared singular values of H H^T; `paper`, those
    of H."""
    classifier: Literal["all-seen", "current-task"] = "all-seen"
    """In class-incremental runs: one trained on all classes seen so far, or, as in the paper,
    one per task."""


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

    def check(self, benchmark: Benchmark) -> None:
        if self.options.classifier == "current-task" and benchmark.scenario != "class":
            raise ConfigError(
                "inflora: classifier current-task is for class-incremental runs, not for this "
                f"{benchmark.scenario}-incremental one"
            )

    @property
    def per_task_heads(self) -> bool:
        return super().per_task_heads or self._local

    @property
    def _local(self) -> bool:
        return bool(self.options.classifier == "current-task")

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

    def task_network(
        self, task_ids: Sequence[int], backbone: nn.Module | None = None
    ) -> TaskNetwork:
        if not self._local:
            return super().task_network(task_ids, backbone)
        # The classifiers of all tasks side by side: the loss then is each task's own.
        heads = [self.head(task_id) for task_id in self.learned]
        first = {task_id: self.benchmark.first_class(task_id) for task_id in self.learned}
        return TaskNetwork(self.network.backbone if backbone is None else backbone, heads, first)

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
        """Per layer: the directions each task could use; the dimensions remembered, of how many.

        In class-incremental runs also which classifier was trained.
        """
        branches, spaces, past = {}, {}, self.past()
        for layer, branch in self.current().items():
            A = factors(branch)[0]
            if past:
                A = torch.cat([factors(past[layer])[0], A])
            used = A.flatten(1).any(dim=1).reshape(-1, self.options.rank).sum(dim=1)
            branches[layer] = used.tolist()
            space = self._space(layer)
            spaces[layer] = [space.dimension if space else 0, A[0].numel()]
        classifier = {"classifier": self.options.classifier}
        which = classifier if self.benchmark.scenario == "class" else {}
        return {**which, "directions": branches, "remembered": spaces}
