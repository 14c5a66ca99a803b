"""QLoRA: LoRA per task on a base that is stored in 4 bits."""

from __future__ import annotations

from typing import ClassVar

from lora_cl.methods.lora import LoRA


class QLoRA(LoRA):
    """Dettmers et al. 2023, arXiv 2305.14314: y = x dequant(W)^T + s x A^T B^T.

    The layers in `targets` are quantised to NF4 before the first task and their float weights go;
    the other layers stay as they are. The adapters and heads are float, as in LoRA. The paper, of
    language models, has linear layers only; convolutions are quantised in the same way.
    """

    summary: ClassVar[str] = "LoRA per task on a base that is really stored in 4 bits"
    quantized_base = True
