"""Modules that are written, imported and forgotten again."""

from __future__ import annotations

from collections.abc import Callable

METHOD = """
from lora_cl.methods.shared import SharedBackbone

class Mine(SharedBackbone):
    summary = "mine"
"""
CONFIG = """
name: p
benchmark: {{name: split, tasks: 2, dataset: {{name: synthetic, classes: 4, features: 6}}}}
methods: {{mine: {{method: '{method}'}}}}
"""

Write = Callable[[dict[str, str]], None]
