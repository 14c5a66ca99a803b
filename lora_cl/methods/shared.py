"""One backbone for all tasks, which goes on learning: as it is, or through one adapter."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

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
    """`adapter`: train one adapter (lora, dora, qlora) for all tasks instead of the backbone.
    `output_layer`: where tasks have heads of their own, these are layers that join the optimiser
    with their task (per-task), or the rows of one layer that all tasks train (one), as in the code
    of van de Ven et al. 2022: rows of other tasks have a gradient of 0, so that they follow the
    optimiser's momentum, and are protected as the trunk is.
    """

    adapter: AdapterChoice | None = None
    """Train one adapter for all tasks, and protect that, in the backbone's place."""
    output_layer: Literal["per-task", "one"] = "per-task"
    """Heads of single tasks are layers of their own (`per-task`), or rows of one layer that is in
    the optimiser from the first task on (`one`)."""


class SharedBackbone(Method):
    """Every task trains the same backbone, or the same adapter on a frozen one, and its head."""

    Options: ClassVar[type[OptionsBase]] = SharedBackboneOptions
    trains_earlier_heads: ClassVar[bool] = False
    """Each task trains the heads of all tasks so far, not its own alone."""

    @classmethod
    def sized_by(cls, options: Any) -> Size | None:
        return None if options.adapter is None else Size("adapter.rank")

    @property
    def adapter(self) -> Any:
        """The options of the adapter that trains in the backbone's place; None if there is none."""
        return self.options.adapter

    @property
    def one_output_layer(self) -> bool:
        """Whether the heads of all tasks are the rows of one layer."""
        return self.per_task_heads and getattr(self.options, "output_layer", "") == "one"

    def prepare(self) -> None:
        if self.one_output_layer:
            for task_id in range(self.benchmark.n_tasks):
                self._add_trained_head(task_id, self.benchmark.task_classes(task_id))
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
        if self.one_output_layer:
            heads = list(self.network.heads.values())
        else:
            answering = self.learned if self.trains_earlier_heads else [task.id]
            heads = [self.head(task_id) for task_id in answering]
        trainable_only(self.network, [*self.trunk(), *heads])

    def param_groups(self) -> list[dict[str, Any]]:
        if not self.one_output_layer:
            return super().param_groups()
        trunk = [p for module in self.trunk() for p in module.parameters() if p.requires_grad]
        rows = list(self.network.heads.parameters())
        return [{"params": trunk}, {"params": rows, "zero_grad": True}]

    def shared_parameters(self) -> dict[str, nn.Parameter]:
        """What tasks train in turn, by name: the trunk, and outputs if they share a layer of them.

        The heads of single tasks are no part of it.
        """
        modules = self.trunk()
        if not self.per_task_heads or self.one_output_layer:
            modules = [*modules, self.network.heads]
        wanted = {id(parameter) for module in modules for parameter in module.parameters()}
        return {n: p for n, p in self.network.named_parameters() if id(p) in wanted}
