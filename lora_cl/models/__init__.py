"""Backbones, heads, and the network as a task sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from lora_cl.data import Dataset, data_root
from lora_cl.errors import ConfigError
from lora_cl.models.backbone import Backbone, Origin, described_input
from lora_cl.models.checkpointing import checkpoint_blocks
from lora_cl.models.cnn import Cnn
from lora_cl.models.lite0 import EfficientNetLite0
from lora_cl.models.mlp import Mlp, MlpOptions
from lora_cl.models.network import (
    Network,
    TaskNetwork,
    close,
    content_hash,
    fingerprint,
    known_hashes,
    seed_global_stream,
    seeded,
    trainable_only,
    training_mode,
)
from lora_cl.models.norms import calibrate_norms, keep_statistics
from lora_cl.models.prefix import without_prefix
from lora_cl.models.same import SameConv2d
from lora_cl.models.text import Transformers
from lora_cl.models.timm import Timm
from lora_cl.models.torchvision import Torchvision
from lora_cl.models.vit import Vit
from lora_cl.options import OptionsBase, choice
from lora_cl.plugins import Parts

BACKBONES: Parts[type[Backbone]] = Parts(
    "model",
    "lora_cl.models",
    Backbone,
    OptionsBase,
    {
        "mlp": Mlp,
        "cnn": Cnn,
        "vit": Vit,
        "torchvision": Torchvision,
        "timm": Timm,
        "efficientnet-lite0": EfficientNetLite0,
        "transformers": Transformers,
    },
)

BackboneChoice: Any = choice(BACKBONES)


def build_network(
    options: Any, input_shape: torch.Size, seed: int, root: Path | None = None
) -> Network:
    """A network without heads, its backbone initialised from ``seed``, on the CPU.

    ``options`` is a validated ``BackboneChoice``; pretrained weights lie under ``root``, by default
    where the data sets do. Raises ConfigError if the data does not fit, DataError where the weights
    are not there or not what they should be.
    """
    kind: Any = BACKBONES[options.name]
    folder = weights_folder(options, root)
    with seeded(seed):
        places = [] if folder is None else [folder]
        backbone: nn.Module = kind(options, input_shape, *places)
    if getattr(options, "checkpointing", False) and not checkpoint_blocks(backbone):
        message = "the model repeats no blocks whose activations could be computed again"
        raise ConfigError(message, "model.checkpointing")
    backbone.eval()
    with torch.no_grad():
        features = backbone(torch.zeros(1, *input_shape)).shape[1]
    return Network(backbone, features)


def weights_folder(options: Any, root: Path | None = None) -> Path | None:
    """Where the pretrained weights of a backbone lie, fetched if need be; None: it has none."""
    weights = BACKBONES[options.name].pretrained(options)
    return None if weights is None else weights.fetch(root or data_root())


def encoded(options: Any, data: Dataset, root: Path | None = None) -> Dataset:
    """``data`` as the backbone takes it; ConfigError where it cannot."""
    return BACKBONES[options.name].encoded(options, data, weights_folder(options, root))


__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneChoice",
    "Mlp",
    "MlpOptions",
    "Network",
    "Origin",
    "SameConv2d",
    "TaskNetwork",
    "build_network",
    "calibrate_norms",
    "close",
    "content_hash",
    "described_input",
    "encoded",
    "fingerprint",
    "keep_statistics",
    "known_hashes",
    "seed_global_stream",
    "seeded",
    "trainable_only",
    "training_mode",
    "weights_folder",
    "without_prefix",
]
