"""DoRA: per task a low-rank change of the weights' direction, and their magnitude."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from torch import nn

from lora_cl.adapters import make_dora
from lora_cl.methods.lora import LoRA, LoRAOptions
from lora_cl.options import OptionsBase


class DoRAOptions(LoRAOptions):
    """Rank, alpha, targets, init and scaling of the adapters; the router."""


class DoRA(LoRA):
    """Liu et al. 2024, arXiv 2402.09353: W = m (W0 + s B A) / |W0 + s B A|, row by row.

    A, B and the magnitudes m are new for every task.
    """

    Options: ClassVar[type[OptionsBase]] = DoRAOptions
    summary: ClassVar[str] = "LoRA per task that trains the weights' magnitude apart"
    make: ClassVar[Callable[..., nn.Module]] = staticmethod(make_dora)
    kind: ClassVar[str] = "dora"
