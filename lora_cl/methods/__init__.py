"""Continual-learning methods, one short file each."""

from __future__ import annotations

from typing import Any

from lora_cl.methods.frozen import Frozen
from lora_cl.methods.full import Full
from lora_cl.methods.joint import Joint
from lora_cl.methods.lora import LoRA
from lora_cl.methods.method import Bank, Fit, Method
from lora_cl.options import choice

METHODS: dict[str, type[Method]] = {
    "full": Full,
    "frozen": Frozen,
    "lora": LoRA,
    "joint": Joint,
}

MethodChoice: Any = choice({name: kind.Options for name, kind in METHODS.items()}, key="method")

__all__ = ["METHODS", "Bank", "Fit", "Method", "MethodChoice"]
