"""One backbone for all tasks, which goes on learning: as it is, or through one adapter."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from lora_cl.adapters import (
    activate,
    adapted_layers,
    add_adapter,
    make_dora,
    make_lora,
    match_targets,
    wrap,
)
from lora_cl.adapters.lora import Init, Scaling
from lora_cl.benchmarks import Task
from lora_cl.methods.method import Method, Size
from lora_cl.models import trainable_only
from lora_cl.options import OptionsBase, choice

SHARED_ADAPTER = "shared"


class AutoTargets(OptionsBase):
    """The `auto` layers that move most, relative to themselves, in `steps` steps of full
    fine-tuning on the first task, by Adam at rate `lr`."""

    auto: int = Field(ge=1, le=65536)
    """How many layers: those that move most."""
    steps: int = Field(default=100, ge=1)
    """Of the full fine-tune on the first task that tells."""
    lr: float = Field(default=1e-4, gt=0.0)
    """Its learning rate."""


Targets = str | list[str] | AutoTargets


class LowRankOptions(OptionsBase):
    """`targets`: all-linear, attention, last-K, a list of layer names and globs, or {auto: K}.

    `init` of A: `kaiming`, uniform in +-1/sqrt(d_in), or `gaussian`, N(0, (1/rank)^2), whose rows
    grow as the rank falls. `scaling`: s = alpha / rank, or alpha / sqrt(rank) (rslora).
    """

    rank: Annotated[int, Field(ge=1, le=65536)] = 8
    """r of A (r, d_in) and B (d_out, r)."""
    alpha: Annotated[float, Field(gt=0.0)] = 16.0
    """The scale is s = alpha / rank."""
    targets: Targets = "all-linear"
    """The layers to adapt: `all-linear`, `attention`, `last-2` and the like, a list of names and
    globs, or `{auto: k}`, those that a short fine-tune moves most."""
    init: Init = "kaiming"
    """A uniform in +-1/sqrt(d_in), or from N(0, (1/rank)^2), which makes small ranks learn
    fast; B = 0."""
    scaling: Scaling = "lora"
    """s = alpha / rank, or alpha / sqrt(rank) (`rslora`)."""


AdapterChoice: Any = choice(
    {"lora": LowRankOptions, "dora": LowRankOptions, "qlora": LowRankOptions}
)


class SharedBackboneOptions(OptionsBase):
    """`adapter`: train one adapter (lora, dora, qlora) for all tasks instead of the backbone."""

    adapter: AdapterChoice | None = None
    """Train one adapter for all tasks, and protect that, in the backbone's place."""


class SharedBackbone(Method):
    """Every task trains the same backbone, or the same adapter on a frozen one, and its head."""

    Options: ClassVar[type[OptionsBase]] = SharedBackboneOptions

    @classmethod
    def sized_by(cls, options: Any) -> Size | None:
        return None if options.adapter is None else Size("adapter.rank")

    @property
    def adapter(self) -> Any:
        """The options of the adapter that trains in the backbone's place; None if there is none."""
        return self.options.adapter

    def prepare(self) -> None:
        adapter = self.adapter
        if adapter is None:
            return
        backbone = self.network.backbone
        wrap(backbone, match_targets(backbone, adapter.targets), quantize=adapter.name == "qlora")
        make = make_dora if adapter.name == "dora" else make_lora

        def make_one(layer: str, base: nn.Module) -> nn.Module:
            return make(
                base,
                rank=adapter.rank,
                alpha=adapter.alpha,
                init=adapter.init,
                scaling=adapter.scaling,
                generator=torch.Generator().manual_seed(self.seed_for("adapter", layer)),
            )

        add_adapter(backbone, SHARED_ADAPTER, make_one)
        activate(backbone, SHARED_ADAPTER)

    def trunk(self) -> list[nn.Module]:
        """What of the backbone trains: all of it, or its adapter."""
        if self.adapter is None:
            return [self.network.backbone]
        layers = adapted_layers(self.network.backbone).values()
        return [layer.adapters[SHARED_ADAPTER] for layer in layers]

    def freeze_for(self, task: Task) -> None:
        trainable_only(self.network, [*self.trunk(), self.head(task.id)])

    def shared_parameters(self) -> dict[str, nn.Parameter]:
        """What tasks train in turn, by name: the trunk, and the head if they share it.

        The heads of single tasks are no part of it.
        """
        modules = self.trunk()
        if not self.per_task_heads:
            modules = [*modules, self.network.heads["shared"]]
        wanted = {id(parameter) for module in modules for parameter in module.parameters()}
        return {n: p for n, p in self.network.named_parameters() if id(p) in wanted}
