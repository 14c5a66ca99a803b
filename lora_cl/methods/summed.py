"""One low-rank branch per task, all of them summed in one network: O-LoRA, InfLoRA."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, cast

import torch
from torch import Tensor, nn

from lora_cl.adapters import (
    LoRA,
    ScaledBranches,
    activate,
    adapter_modules,
    add_adapter,
    assert_all_adapters_have_gradient,
    make_lora,
    match_targets,
    remove_adapter,
    wrap,
)
from lora_cl.benchmarks import Task
from lora_cl.methods.method import Method, Size
from lora_cl.models import trainable_only

PAST, CURRENT = "past", "current"

Factors = tuple[Tensor, Tensor]
"""A (r, d_in) and B (d_out, r), or the kernels of a convolution; see ``adapters.lora``."""


class SummedBranches(Method):
    """W0 + s (B_1 A_1 + ... + B_t A_t): the branches before the last one are frozen.

    Every task is answered with all branches, so no task id is needed to choose one, and they could
    be merged into W0; they are kept for what is learned next. Whatever the number of tasks they are
    two adapters: ``past``, the earlier branches side by side, and ``current``, that of the latest
    task.
    """

    @abstractmethod
    def make_branch(self, task: Task, layer: str, base: nn.Module) -> LoRA:
        """A fresh branch for one layer, with B = 0."""

    @classmethod
    def sized_by(cls, options: Any) -> Size | None:
        return Size("rank")

    def prepare(self) -> None:
        backbone = self.network.backbone
        wrap(backbone, match_targets(backbone, self.options.targets))
        # A layer that no branch fits is told before anything starts.
        add_adapter(backbone, CURRENT, lambda _, base: self._any_branch(base))
        remove_adapter(backbone, CURRENT)
        trainable_only(self.network, [])

    def _any_branch(self, base: nn.Module) -> LoRA:
        rank = self.options.rank
        return make_lora(base, rank=rank, alpha=1.0, generator=torch.Generator().manual_seed(0))

    def begin(self, task: Task) -> None:
        backbone = self.network.backbone
        if self.learned:
            self._append_to_past()
        add_adapter(backbone, CURRENT, lambda layer, base: self.make_branch(task, layer, base))
        activate(backbone, *([PAST, CURRENT] if self.learned else [CURRENT]))
        self._gradient_checked = False
        super().begin(task)

    def after_backward(self) -> None:
        if not self._gradient_checked:
            assert_all_adapters_have_gradient(self.network.backbone, CURRENT)
            self._gradient_checked = True

    def current(self) -> dict[str, LoRA]:
        """Layer name to the branch of the latest task; empty before the first one."""
        if not self.learned:
            return {}
        return cast("dict[str, LoRA]", adapter_modules(self.network.backbone, CURRENT))

    def past(self) -> dict[str, LoRA]:
        """Layer name to the earlier branches side by side; empty during the first task."""
        if len(self.learned) < 2:
            return {}
        return cast("dict[str, LoRA]", adapter_modules(self.network.backbone, PAST))

    def _append_to_past(self) -> None:
        past, backbone = self.past(), self.network.backbone
        stacked: dict[str, LoRA] = {}
        for layer, branch in self.current().items():
            A, B = factors(branch)
            if past:
                A, B = stack_branches(factors(past[layer]), (A, B))
            stacked[layer] = LoRA(A, B, branch.scale).requires_grad_(False)
        if past:
            remove_adapter(backbone, PAST)
        remove_adapter(backbone, CURRENT)
        add_adapter(backbone, PAST, lambda layer, base: stacked[layer])


def factors(branch: LoRA | ScaledBranches) -> Factors:
    return branch.lora_A.weight.detach(), branch.lora_B.weight.detach()


def stack_branches(first: Factors, second: Factors) -> Factors:
    """(A, B) with B A = B1 A1 + B2 A2, from (A1, B1) and (A2, B2).

    A1 (r1, d_in), B1 (d_out, r1), A2 (r2, d_in) and B2 (d_out, r2) give A (r1 + r2, d_in) and
    B (d_out, r1 + r2). In a grouped convolution the rows of each group stay together.
    """
    (A1, B1), (A2, B2) = first, second
    groups = A1.shape[0] // B1.shape[1]
    A = torch.cat([A.reshape(groups, -1, *A.shape[1:]) for A in (A1, A2)], dim=1)
    return A.flatten(0, 1), torch.cat([B1, B2], dim=1)
