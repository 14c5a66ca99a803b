"""Backbones for images as a config names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import nn

from lora_cl.models import BackboneChoice, build_network

GREY = (1, 16, 16)


def backbone(
    name: str, shape: tuple[int, ...] = GREY, root: Path | None = None, **options: Any
) -> nn.Module:
    chosen = TypeAdapter(BackboneChoice).validate_python({"name": name, **options})
    return build_network(chosen, torch.Size(shape), seed=0, root=root).backbone
