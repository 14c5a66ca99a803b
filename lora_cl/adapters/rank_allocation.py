"""How AdaLoRA spends its budget of triplets (Zhang et al. 2023, arXiv 2303.10512, section 3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lora_cl.adapters.adalora import SVDLoRA
from lora_cl.errors import MethodError


def budget_schedule(step: int, total: int, b0: int, bT: int, t_i: int, t_f: int) -> int:
    """The number of triplets that may live at ``step`` of ``total`` (Zhang et al. 2023, eq. 12).

    b0 for the first ``t_i`` steps, then bT + (b0 - bT) (1 - (t - t_i) / (T - t_i - t_f))^3, rounded
    down, then bT for the last ``t_f``.
    """
    if step >= total - t_f:
        return bT
    if step <= t_i:
        return b0
    left = 1 - (step - t_i) / (total - t_i - t_f)
    return int(bT + (b0 - bT) * left**3)


@torch.no_grad()
def update_sensitivity(
    importance: Tensor, uncertainty: Tensor, weight: Tensor, grad: Tensor, b1: float, b2: float
) -> None:
    """Take one step's sensitivity I = |w dL/dw| into its running means, in place (eqs. 8 to 10).

    importance <- b1 importance + (1 - b1) I;
    uncertainty <- b2 uncertainty + (1 - b2) |I - importance|, the importance just updated.
    All tensors are of the weight's shape.
    """
    sensitivity = (weight * grad).abs_()
    importance.lerp_(sensitivity, 1 - b1)
    uncertainty.lerp_(sensitivity.sub_(importance).abs_(), 1 - b2)


def triplet_scores(s_P: Tensor, s_E: Tensor, s_Q: Tensor) -> Tensor:
    """S_i = s(lambda_i) + mean_k s(P_ki) + mean_k s(Q_ik), shape (r,) (eq. 7).

    The scores s = importance * uncertainty (eq. 11) of P (d_out, r), lambda (r, 1) and Q (r, d_in).
    """
    return s_E.flatten() + s_P.mean(dim=0) + s_Q.mean(dim=1)


def mask_to_budget(scores: Mapping[str, Tensor], budget: int) -> dict[str, Tensor]:
    """Which triplets live: True for the ``budget`` highest scores over all layers together.

    ``scores`` holds (r,) for each layer. Any budget from 0 up is allowed, also one that keeps
    everything; of equal scores the earlier ones live.
    """
    together = torch.cat(list(scores.values()))
    order = torch.argsort(together, descending=True, stable=True)
    alive = torch.zeros_like(together, dtype=torch.bool)
    alive.index_fill_(0, order[:budget], True)
    sizes = [score.numel() for score in scores.values()]
    return dict(zip(scores, torch.split(alive, sizes), strict=True))


@dataclass
class RankAllocator:
    """The budget of one task's fit: start a new one for every task.

    ``adapters``: layer name to adapter. ``total_steps``: the steps of this fit. ``target_rank``:
    the mean rank to end with, so that bT = target_rank * number of layers. ``warmup_steps`` and
    ``final_steps``: t_i and t_f. ``interval``: delta T. Call ``after_step`` with the gradients
    still there.
    """

    adapters: Mapping[str, SVDLoRA]
    total_steps: int
    target_rank: int
    warmup_steps: int
    final_steps: int
    interval: int = 1
    beta1: float = 0.85
    beta2: float = 0.85
    state: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        if self.warmup_steps + self.final_steps >= self.total_steps:
            raise MethodError(
                f"adalora: {self.warmup_steps} warm-up and {self.final_steps} final steps leave "
                f"none of the task's {self.total_steps} to prune in; train longer or lower them"
            )
        if self.target_budget > self.initial_budget:
            raise MethodError(
                f"adalora: target_rank {self.target_rank} is above the initial rank "
                f"{self.initial_budget // len(self.adapters)}; it must not be"
            )
        self.state = {}
        for layer, adapter in self.adapters.items():
            for name, parameter in adapter.named_parameters():
                self.state[f"importance.{layer}.{name}"] = torch.zeros_like(parameter).detach()
                self.state[f"uncertainty.{layer}.{name}"] = torch.zeros_like(parameter).detach()
            alive = torch.ones_like(adapter.lora_E, dtype=torch.bool)
            self.state[f"alive.{layer}"] = alive.flatten()

    @property
    def initial_budget(self) -> int:
        """b0, the triplets of all layers at the start."""
        return sum(adapter.triplets for adapter in self.adapters.values())

    @property
    def target_budget(self) -> int:
        """bT, the triplets of all layers at the end."""
        return self.target_rank * len(self.adapters)

    def after_step(self, step: int) -> None:
        """Learn from the gradients of ``step`` (1 to total_steps) and prune if it is time.

        Until the last phase a pruned triplet may come back; in it, the choice is final.
        """
        last_choice = self.total_steps - self.final_steps
        if step <= last_choice:
            self._update_sensitivities()
            pruning = step > self.warmup_steps and step % self.interval == 0
            if not (pruning or step == last_choice):
                return
            self._choose(step)
        self._prune()

    def _update_sensitivities(self) -> None:
        for layer, adapter in self.adapters.items():
            for name, parameter in adapter.named_parameters():
                if parameter.grad is None:
                    raise MethodError(f"adalora: {layer}.{name} has no gradient to judge it by")
                update_sensitivity(
                    self.state[f"importance.{layer}.{name}"],
                    self.state[f"uncertainty.{layer}.{name}"],
                    parameter,
                    parameter.grad,
                    self.beta1,
                    self.beta2,
                )

    def _choose(self, step: int) -> None:
        budget = budget_schedule(
            step,
            self.total_steps,
            self.initial_budget,
            self.target_budget,
            self.warmup_steps,
            self.final_steps,
        )
        for layer, alive in mask_to_budget(self.scores(), budget).items():
            self.state[f"alive.{layer}"] = alive

    @torch.no_grad()
    def _prune(self) -> None:
        for layer, adapter in self.adapters.items():
            adapter.lora_E.mul_(self.state[f"alive.{layer}"].unsqueeze(1))

    def scores(self) -> dict[str, Tensor]:
        """The triplets' scores now, (r,) for each layer."""
        return {
            layer: triplet_scores(
                *(
                    self.state[f"importance.{layer}.{name}"]
                    * self.state[f"uncertainty.{layer}.{name}"]
                    for name in ("lora_B", "lora_E", "lora_A")
                )
            )
            for layer in self.adapters
        }

    def ranks(self) -> dict[str, int]:
        """The rank that each layer was given, by the last choice."""
        return {layer: int(self.state[f"alive.{layer}"].sum()) for layer in self.adapters}

    def state_dict(self) -> dict[str, Tensor]:
        """All that was learned, as tensors, for a checkpoint."""
        return {name: tensor.clone() for name, tensor in self.state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from ``state_dict()`` of an allocator of the same adapters."""
        if state.keys() != self.state.keys():
            raise MethodError("adalora: the saved budget belongs to other adapters")
        for name, tensor in self.state.items():
            tensor.copy_(state[name])
