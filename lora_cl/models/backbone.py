"""What every backbone is: a module with options of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from lora_cl.data import Dataset
from lora_cl.data.weights import Weights
from lora_cl.errors import ConfigError
from lora_cl.options import OptionsBase


@dataclass(frozen=True)
class Origin:
    """How the library that a backbone is of knows it.

    ``call`` makes the network there, in Python, of ``name`` and, with a ``classifier``, the layer
    whose output are the logits, of the number of classes ``{classes}``; ``prefix`` stands before
    the names of its layers here. Layers ``transposed`` are kept there as (d_in, d_out).
    """

    library: str
    name: str
    call: str
    prefix: str
    classifier: str | None = None
    license: str | None = None
    transposed: frozenset[str] = frozenset()


class Backbone(nn.Module):
    """(N, *input_shape) -> (N, features).

    A subclass is made with its own ``Options`` and the shape of one input, and raises ConfigError
    if that does not fit. Where ``pretrained`` names weights, it is made with the folder that holds
    them besides: ``kind(options, input_shape, folder)``. One that is an ``nn.Sequential`` names its
    stages: as many of them as are frozen and come first are computed once for all steps of a fit.
    """

    Options: ClassVar[type[OptionsBase]]
    summary: ClassVar[str]
    reads_text: ClassVar[bool] = False
    origin: Origin | None = None
    """None: it is of this package, and known nowhere else."""

    @classmethod
    def pretrained(cls, options: Any) -> Weights | None:
        """The weights that a backbone with these options begins with; None: random ones."""
        return None

    @classmethod
    def encoded(cls, options: Any, data: Dataset, folder: Path | None) -> Dataset:
        """``data`` as this backbone takes it: here as it is, and texts are a ConfigError.

        ``folder`` holds the weights and what belongs to them, such as a tokenizer.
        """
        if data.text:
            raise ConfigError(f"takes numbers, and {data.name} holds texts: use transformers")
        return data

    def preprocessing(self) -> dict[str, Any]:
        """What it does to its inputs before anything learned does, as JSON: here nothing."""
        return {}


def described_input(backbone: nn.Module, shape: Sequence[int]) -> dict[str, Any]:
    """What a network with ``backbone`` takes, as JSON: the kind and shape of one input, and how it
    is prepared."""
    reads_text = isinstance(backbone, Backbone) and backbone.reads_text
    kind = "tokens" if reads_text else "image" if len(shape) == 3 else "numbers"
    prepared = backbone.preprocessing() if isinstance(backbone, Backbone) else {}
    return {"kind": kind, "shape": list(shape), **prepared}


def stages(backbone: nn.Module) -> list[nn.Module]:
    """What a backbone does one after another: a Sequential's modules, and those of one inside it;
    or the whole at once."""
    if type(backbone).forward is not nn.Sequential.forward:
        return [backbone]
    return [stage for module in backbone.children() for stage in stages(module)]
