"""DoRA: per task a low-rank change of the weights' direction, and their magnitude."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from lora_cl.adapters import make_dora
from lora_cl.methods.adapted import AdapterPerTask
from lora_cl.methods.routing import RouterOptions
from lora_cl.methods.shared import LowRankOptions
from lora_cl.options import OptionsBase


class DoRAOptions(LowRankOptions, RouterOptions):
    """Rank, alpha, targets, init and scaling of the adapters; the router."""


class DoRA(AdapterPerTask):
    """Liu et al. 2024, arXiv 2402.09353: W = m (W0 + s B A) / |W0 + s B A|, row by row.

    A, B and the magnitudes m are new for every task.
    """

    Options: ClassVar[type[OptionsBase]] = DoRAOptions
    summary: ClassVar[str] = "LoRA per task that trains the weights' magnitude apart"

    def make_adapter(self, layer: str, base: nn.Module, generator: torch.Generator) -> nn.Module:
        o = self.options
        return make_dora(
            base,
            rank=o.rank,
            alpha=o.alpha,
            init=o.init,
            scaling=o.scaling,
            generator=generator,
        )

    def peft_options(self) -> dict[str, Any]:
        o = self.options
        return {"kind": "dora", "rank": o.rank, "alpha": o.alpha, "scaling": o.scaling}
