"""Full fine-tuning: everything trains, nothing protects. The lower reference."""

from __future__ import annotations

from typing import ClassVar

from lora_cl.methods.method import Method
from lora_cl.options import OptionsBase


class FullOptions(OptionsBase):
    """No options."""


class Full(Method):
    """Each task is trained from where the one before it ended."""

    Options: ClassVar[type[OptionsBase]] = FullOptions
    summary: ClassVar[str] = "everything trains, nothing protects: the lower reference"
