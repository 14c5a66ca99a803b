"""Continual-learning methods, one short file each."""

from __future__ import annotations

from lora_cl.methods.adalora import AdaLoRA
from lora_cl.methods.bank import Bank, MemoryBank
from lora_cl.methods.derpp import DERpp
from lora_cl.methods.dora import DoRA
from lora_cl.methods.ewc import EWC
from lora_cl.methods.frozen import Frozen
from lora_cl.methods.full import Full
from lora_cl.methods.independent import Independent
from lora_cl.methods.inflora import InfLoRA
from lora_cl.methods.joint import Joint
from lora_cl.methods.lora import LoRA
from lora_cl.methods.lwf import LwF
from lora_cl.methods.merged import Merged
from lora_cl.methods.method import Fit, Method
from lora_cl.methods.o_lora import OLoRA
from lora_cl.methods.packnet import PackNet
from lora_cl.methods.pnn import PNN
from lora_cl.methods.qlora import QLoRA
from lora_cl.methods.replay import Replay
from lora_cl.methods.sd_lora import SDLoRA
from lora_cl.methods.seq_lora import SeqLoRA
from lora_cl.methods.shared_private import SharedPrivate
from lora_cl.methods.si import SI
from lora_cl.options import OptionsBase
from lora_cl.plugins import Parts

METHODS: Parts[type[Method]] = Parts(
    "method",
    "lora_cl.methods",
    Method,
    OptionsBase,
    {
        "full": Full,
        "frozen": Frozen,
        "lora": LoRA,
        "joint": Joint,
        "independent": Independent,
        "shared_private": SharedPrivate,
        "pnn": PNN,
        "packnet": PackNet,
        "ewc": EWC,
        "lwf": LwF,
        "replay": Replay,
        "derpp": DERpp,
        "si": SI,
        "dora": DoRA,
        "adalora": AdaLoRA,
        "qlora": QLoRA,
        "seq_lora": SeqLoRA,
        "o_lora": OLoRA,
        "inflora": InfLoRA,
        "merged": Merged,
        "sd_lora": SDLoRA,
    },
    key="method",
    taken={
        "train": "that is how it is trained",
        "classifier": "that is what answers on its features",
        "tuned": "that is what of it was tuned",
    },
)

__all__ = ["METHODS", "Bank", "Fit", "MemoryBank", "Method"]
