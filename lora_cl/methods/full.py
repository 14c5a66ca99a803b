"""Full fine-tuning: everything trains, nothing protects. The lower reference."""

from __future__ import annotations

from typing import ClassVar

from lora_cl.methods.shared import SharedBackbone


class Full(SharedBackbone):
    """Each task is trained from where the one before it ended."""

    summary: ClassVar[str] = "everything trains, nothing protects: the lower reference"
