"""EWC: elastic weight consolidation (Kirkpatrick et al. 2017, arXiv 1612.00796)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from lora_cl.benchmarks import Task, permutation
from lora_cl.data.streaming import subset
from lora_cl.methods.fisher import FisherKind, fisher_diagonal
from lora_cl.methods.method import Fit
from lora_cl.methods.shared import SharedBackbone, SharedBackboneOptions
from lora_cl.models import TaskNetwork
from lora_cl.options import OptionsBase


class EWCOptions(SharedBackboneOptions):
    """`strength`: the paper's lambda; the Fisher is an average over samples and the 1/2 is there.

    `variant`: separate, the paper's, a quadratic per task; online (Schwarz et al. 2018), one that
    forgets by `gamma`. `fisher`: whose labels, in expectation over the model's own (exact), drawn
    from them (sampled), or the true ones (empirical); over all training samples, or
    `fisher_samples` of them.
    """

    strength: Annotated[float, Field(ge=0.0)] = 1e5
    """lambda; the 1/2 is in the formula, and F is a mean over samples."""
    variant: Literal["separate", "online"] = "separate"
    """`separate`, a quadratic per task, the paper's; `online`, one that forgets by `gamma`."""
    gamma: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """By which `online` shrinks the Fisher information of earlier tasks."""
    fisher: FisherKind = "exact"
    """Labels in expectation over the model's own (`exact`), drawn from them, or the true ones."""
    fisher_samples: Annotated[int, Field(ge=1)] | None = None
    """Training samples that F is estimated from; null: all."""


class EWC(SharedBackbone):
    """What mattered to earlier tasks is tied to where they left it.

    Both variants keep two tensors a parameter, however many tasks there were: a sum of quadratics
    is a quadratic.
    """

    Options: ClassVar[type[OptionsBase]] = EWCOptions
    summary: ClassVar[str] = "a quadratic penalty ties weights by their Fisher information"

    def learn(self, task: Task, fit: Fit) -> None:
        fit([task])
        fisher = self.fisher(task)
        self.consolidate(fisher)

    def start_fit(self, tasks: Sequence[Task], network: TaskNetwork) -> None:
        self.shared = self.shared_parameters()

    def penalty(self) -> Tensor | None:
        if "constant" not in self.kept:
            return None
        distance = sum(
            quadratic(p, self.kept[f"anchor.{name}"], self.kept[f"fisher.{name}"])
            for name, p in self.shared.items()
        )
        strength: float = self.options.strength
        return strength / 2 * (distance + self.kept["constant"])

    def fisher(self, task: Task) -> dict[str, Tensor]:
        """The Fisher diagonal of ``task`` at the present weights, by name of the parameter."""
        samples = task.train()
        x, y = samples.x, samples.y
        limit = self.options.fisher_samples
        if limit is not None and limit < len(y):
            chosen = permutation(len(y), self.seed_for("fisher samples", task.id))[:limit]
            chosen = chosen.to(y.device)
            x, y = subset(x, chosen), y[chosen]
        generator = torch.Generator().manual_seed(self.seed_for("fisher labels", task.id))
        with self.view_together([task]) as network:
            return fisher_diagonal(
                network,
                self.shared_parameters(),
                x,
                y + network.offsets[task.id],
                self.options.fisher,
                generator,
            )

    @torch.no_grad()
    def consolidate(self, fisher: dict[str, Tensor]) -> None:
        """Adds the quadratic of the task just learned to what the next ones are held by."""
        constant = self.kept.get("constant", torch.zeros((), device=self.network.device))
        for name, parameter in self.shared_parameters().items():
            latest, new = parameter.detach().clone(), fisher[name]
            old = self.kept.get(f"fisher.{name}", torch.zeros_like(new))
            if self.options.variant == "separate":
                anchor = self.kept.get(f"anchor.{name}", latest)
                new, latest, extra = add_quadratics(old, anchor, new, latest)
                constant = constant + extra
            else:
                new = self.options.gamma * old + new
            self.kept |= {f"fisher.{name}": new, f"anchor.{name}": latest}
        self.kept["constant"] = constant


def quadratic(theta: Tensor, anchor: Tensor, weight: Tensor) -> Tensor:
    """sum_i F_i (theta_i - theta*_i)^2, all of one shape (Kirkpatrick et al. 2017, equation 3)."""
    return torch.dot(weight.flatten(), (theta - anchor).flatten().square())


def ewc_penalty(theta: Tensor, anchors: list[Tensor], fishers: list[Tensor], lam: float) -> Tensor:
    """(lambda / 2) sum_k sum_i F_ki (theta_i - theta*_ki)^2 over tasks k (the same equation).

    What ``add_quadratics`` makes one quadratic of, written out.
    """
    parts = [quadratic(theta, a, f) for a, f in zip(anchors, fishers, strict=True)]
    return lam / 2 * torch.stack(parts).sum()


def add_quadratics(
    weight: Tensor, anchor: Tensor, other_weight: Tensor, other_anchor: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """F (t - a)^2 + G (t - b)^2 = (F + G)(t - m)^2 + constant, element by element.

    m = (F a + G b) / (F + G), constant = sum F G / (F + G) (a - b)^2. Weights are not negative;
    where both are 0, m = b. Unlike the sums of F t^2, 2 F a t and F a^2, whose small difference
    is lost to rounding where lambda is large, this form has only terms >= 0.
    """
    total = weight + other_weight
    share = torch.where(total > 0, other_weight / total, torch.ones_like(total))
    apart = other_anchor - anchor
    return total, anchor + share * apart, (weight * share * apart.square()).sum()
