"""AdaLoRA: one adapter per task whose rank is spent where it matters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from lora_cl.adapters import (
    PenaltyForm,
    RankAllocator,
    SVDLoRA,
    adapted_layers,
    adapter_modules,
    make_adalora,
    orthogonality_penalty,
)
from lora_cl.benchmarks import Task
from lora_cl.methods.adapted import AdapterPerTask
from lora_cl.methods.routing import RouterOptions
from lora_cl.methods.shared import Targets
from lora_cl.models import TaskNetwork
from lora_cl.options import OptionsBase

ALLOCATOR = "allocator."


class AdaLoRAOptions(RouterOptions):
    """`rank`: triplets of every layer at the start; `target_rank`: their mean at the end.

    The budget stays for the first `warmup` share of a task's steps (t_i), falls until the last
    `final` share (t_f), and is enforced every `every` steps (delta T). `orthogonality`: gamma, the
    weight of the penalty; `penalty`: `norm`, the mean of the Frobenius norms as in the authors'
    code and PEFT, or `squared`, the sum of their squares as in the paper.
    """

    rank: int = Field(default=12, ge=1, le=65536)
    """Triplets of every layer at the start."""
    target_rank: int = Field(default=8, ge=1, le=65536)
    """Their mean at the end, at most `rank`."""
    alpha: float = Field(default=16.0, gt=0.0)
    """The scale is s = alpha / (rank + 1e-5)."""
    targets: Targets = "all-linear"
    """The layers to adapt, as those of `lora`."""
    warmup: float = Field(default=0.1, ge=0.0, lt=1.0)
    """t_i as a share of a task's steps: so long the budget stays."""
    final: float = Field(default=0.3, ge=0.0, lt=1.0)
    """t_f as a share: so long at the end it stays as well; warmup + final < 1."""
    every: int = Field(default=10, ge=1)
    """Steps between two choices of triplets, delta T."""
    orthogonality: float = Field(default=0.1, ge=0.0)
    """gamma, the weight of the penalty; 0.1 in the authors' code, 0.5 in PEFT."""
    penalty: PenaltyForm = "norm"
    """`norm`, the mean of the norms as in the authors' code and PEFT; `squared`, the sum of
    their squares as in the paper."""
    beta1: float = Field(default=0.85, ge=0.0, lt=1.0)
    """How slowly the sensitivity is averaged."""
    beta2: float = Field(default=0.85, ge=0.0, lt=1.0)
    """How slowly its uncertainty is averaged."""

    @model_validator(mode="after")
    def _consistent(self) -> AdaLoRAOptions:
        if self.target_rank > self.rank:
            raise ValueError(
                f"target_rank {self.target_rank} is above rank {self.rank}, where it starts"
            )
        if self.warmup + self.final >= 1.0:
            raise ValueError(
                f"warmup {self.warmup:g} and final {self.final:g} are shares of the steps and "
                "must leave some in between: their sum must be below 1"
            )
        return self


class AdaLoRA(AdapterPerTask):
    """Zhang et al. 2023, arXiv 2303.10512, algorithm 1: W = W0 + s P diag(lambda) Q.

    Triplets of all layers compete for the budget, anew for every task. Those that survive are
    sealed with the task; the others are gone.
    """

    Options: ClassVar[type[OptionsBase]] = AdaLoRAOptions
    summary: ClassVar[str] = "LoRA per task whose rank is spent on the layers that need it"

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._allocator: RankAllocator | None = None

    def make_adapter(self, layer: str, base: nn.Module, generator: torch.Generator) -> nn.Module:
        o = self.options
        return make_adalora(base, rank=o.rank, alpha=o.alpha, generator=generator)

    def peft_options(self) -> dict[str, Any]:
        o = self.options
        return {"kind": "adalora", "rank": o.rank, "alpha": o.alpha, "target_rank": o.target_rank}

    def start_fit(self, tasks: Sequence[Task], network: TaskNetwork) -> None:
        self._forget_allocator()
        self._adapters = self._current_adapters()

    def penalty(self) -> Tensor | None:
        """gamma times how far P and Q are from orthogonal (equation 4)."""
        gamma: float = self.options.orthogonality
        if not gamma:
            return None
        factors = [(adapter.lora_B, adapter.lora_A) for adapter in self._adapters.values()]
        return gamma * orthogonality_penalty(factors, self.options.penalty)

    def after_step(self, step: int, total_steps: int) -> None:
        if self._allocator is None:
            self._allocator = self._new_allocator(total_steps)
        self._allocator.after_step(step)

    def seal(self, task: Task) -> None:
        for adapter in self._current_adapters().values():
            adapter.compact()
        super().seal(task)
        self._forget_allocator()

    def details(self) -> dict[str, Any]:
        """The rank that every layer was given, task by task."""
        ranks, layers = {}, adapted_layers(self.network.backbone)
        for task_id in sorted(self.bank):
            sealed = self.bank[task_id]
            ranks[str(task_id)] = {
                layer: sealed[f"backbone.{layer}.lora_E"].shape[0] for layer in layers
            }
        return {"ranks": ranks}

    def state_dict(self) -> dict[str, Tensor]:
        if self._allocator is not None:
            self.kept |= {f"{ALLOCATOR}{k}": v for k, v in self._allocator.state.items()}
        return super().state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        super().load_state_dict(state)
        self._allocator = None

    def _new_allocator(self, total_steps: int) -> RankAllocator:
        """The budget of this fit, at its start or where a checkpoint had it."""
        o = self.options
        allocator = RankAllocator(
            self._adapters,
            total_steps=total_steps,
            target_rank=o.target_rank,
            warmup_steps=int(o.warmup * total_steps),
            final_steps=int(o.final * total_steps),
            interval=o.every,
            beta1=o.beta1,
            beta2=o.beta2,
        )
        saved = {k[len(ALLOCATOR) :]: v for k, v in self.kept.items() if k.startswith(ALLOCATOR)}
        if saved:
            allocator.load_state_dict(saved)
        return allocator

    def _forget_allocator(self) -> None:
        self._allocator = None
        self.kept = {k: v for k, v in self.kept.items() if not k.startswith(ALLOCATOR)}

    def _current_adapters(self) -> dict[str, SVDLoRA]:
        name = self.head_name(self.learned[-1])
        return cast("dict[str, SVDLoRA]", adapter_modules(self.network.backbone, name))
