"""Backbones, heads, and the network as a task sees it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lora_cl.models.backbone import Backbone
from lora_cl.models.cnn import Cnn
from lora_cl.models.mlp import Mlp, MlpOptions
from lora_cl.models.network import (
    Network,
    TaskNetwork,
    close,
    content_hash,
    fingerprint,
    known_hashes,
    seeded,
    trainable_only,
    training_mode,
)
from lora_cl.models.norms import calibrate_norms, keep_statistics
from lora_cl.models.prefix import without_prefix
from lora_cl.options import OptionsBase, choice
from lora_cl.plugins import Parts

BACKBONES: Parts[type[Backbone]] = Parts(
    "model", "lora_cl.models", Backbone, OptionsBase, {"mlp": Mlp, "cnn": Cnn}
)

BackboneChoice: Any = choice(BACKBONES)


def build_network(options: Any, input_shape: torch.Size, seed: int) -> Network:
    """A network without heads, its backbone initialised from ``seed``, on the CPU.

    ``options`` is a validated ``BackboneChoice``. Raises ConfigError if the data does not fit.
    """
    kind = BACKBONES[options.name]
    with seeded(seed):
        backbone: nn.Module = kind(options, input_shape)
    backbone.eval()
    with torch.no_grad():
        features = backbone(torch.zeros(1, *input_shape)).shape[1]
    return Network(backbone, features)


__all__ = [
    "BACKBONES",
    "Backbone",
    "BackboneChoice",
    "Mlp",
    "MlpOptions",
    "Network",
    "TaskNetwork",
    "build_network",
    "calibrate_norms",
    "close",
    "content_hash",
    "fingerprint",
    "keep_statistics",
    "known_hashes",
    "seeded",
    "trainable_only",
    "training_mode",
    "without_prefix",
]
