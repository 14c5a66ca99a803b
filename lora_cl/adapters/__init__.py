"""The LoRA maths: a bank of named adapters around the frozen layers of a backbone."""

from lora_cl.adapters.adalora import (
    PenaltyForm,
    SVDLoRA,
    adalora_scale,
    make_adalora,
    orthogonality_penalty,
)
from lora_cl.adapters.attention import UnpackedAttention
from lora_cl.adapters.dora import DoRA, make_dora
from lora_cl.adapters.inject import (
    activate,
    adapted_layers,
    adapter_modules,
    adapter_state,
    add_adapter,
    assert_all_adapters_have_gradient,
    load_adapter_state,
    merged,
    merged_parameter_count,
    remove_adapter,
    set_trainable,
    unpacked_attentions,
    wrap,
)
from lora_cl.adapters.layer import AdaptedLayer, Adapter
from lora_cl.adapters.lora import LoRA, lora_delta, lora_scale, make_lora
from lora_cl.adapters.magnitudes import ScaledBranches, one_branch
from lora_cl.adapters.merging import Dense, How, default_weight, merge_deltas, require_merge
from lora_cl.adapters.mixing import Mixture
from lora_cl.adapters.nf4 import NF4Linear, nf4_dequantize, nf4_quantize, parameter_count
from lora_cl.adapters.peft_format import PeftAdapter, from_peft, to_peft, unfit_for_peft
from lora_cl.adapters.rank_allocation import (
    RankAllocator,
    budget_schedule,
    mask_to_budget,
    triplet_scores,
    update_sensitivity,
)
from lora_cl.adapters.targets import full_layers, left_out, match_targets

__all__ = [
    "AdaptedLayer",
    "Adapter",
    "Dense",
    "DoRA",
    "How",
    "LoRA",
    "Mixture",
    "NF4Linear",
    "PeftAdapter",
    "PenaltyForm",
    "RankAllocator",
    "SVDLoRA",
    "ScaledBranches",
    "UnpackedAttention",
    "activate",
    "adalora_scale",
    "adapted_layers",
    "adapter_modules",
    "adapter_state",
    "add_adapter",
    "assert_all_adapters_have_gradient",
    "budget_schedule",
    "default_weight",
    "from_peft",
    "full_layers",
    "left_out",
    "load_adapter_state",
    "lora_delta",
    "lora_scale",
    "make_adalora",
    "make_dora",
    "make_lora",
    "mask_to_budget",
    "match_targets",
    "merge_deltas",
    "merged",
    "merged_parameter_count",
    "nf4_dequantize",
    "nf4_quantize",
    "one_branch",
    "orthogonality_penalty",
    "parameter_count",
    "remove_adapter",
    "require_merge",
    "set_trainable",
    "to_peft",
    "triplet_scores",
    "unfit_for_peft",
    "unpacked_attentions",
    "update_sensitivity",
    "wrap",
]
