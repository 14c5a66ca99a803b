"""Sequential LoRA: one adapter that all tasks train in turn; what isolation buys."""

from __future__ import annotations

from typing import Any, ClassVar

from lora_cl.methods.method import Size
from lora_cl.methods.shared import LowRankOptions, SharedBackbone, SharedBackboneOptions
from lora_cl.options import OptionsBase


class SeqLoRA(SharedBackbone):
    """``full`` with `adapter: lora`: a frozen base, and one LoRA that goes on learning."""

    Options: ClassVar[type[OptionsBase]] = LowRankOptions
    summary: ClassVar[str] = "one LoRA that all tasks train in turn: what isolation buys"

    @classmethod
    def sized_by(cls, options: Any) -> Size | None:
        return Size("rank")

    @property
    def adapter(self) -> Any:
        """The low-rank options as those of an adapter."""
        low_rank = {name: getattr(self.options, name) for name in LowRankOptions.model_fields}
        return SharedBackboneOptions.model_validate(
            {"adapter": {"name": "lora", **low_rank}}
        ).adapter
