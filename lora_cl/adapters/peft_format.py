"""One task's adapter and head in PEFT's format: ``adapter_config.json`` and safetensors.

Pure functions: reading and writing the two files is the caller's. The network that PEFT loads them
into has ``backbone`` and ``head``: layer ``x`` of the backbone is ``backbone.x`` there, and the
head is one of PEFT's ``modules_to_save``. Both directions keep every bit.

PEFT gives a convolution's A no dilation: an adapter of a dilated convolution is written correctly,
but PEFT cannot run it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from lora_cl.adapters.lora import Scaling
from lora_cl.errors import MethodError, ResultsError

Kind = Literal["lora", "dora", "adalora"]

_MODEL = "base_model.model."
_BACKBONE = f"{_MODEL}backbone."
_HEAD = f"{_MODEL}head."
_NEEDED: dict[Kind, frozenset[str]] = {
    "lora": frozenset({"lora_A.weight", "lora_B.weight"}),
    "dora": frozenset({"lora_A.weight", "lora_B.weight", "lora_magnitude_vector"}),
    "adalora": frozenset({"lora_A", "lora_B", "lora_E"}),
}


@dataclass(frozen=True)
class PeftAdapter:
    """What one task added to the network.

    ``rank`` is the initial rank; ``state`` is ``adapter_state()`` of the backbone, ``head`` the
    head's state_dict. ``target_rank`` and ``total_steps`` are AdaLoRA's, kept for the record.
    """

    kind: Kind
    rank: int
    alpha: float
    state: dict[str, Tensor]
    head: dict[str, Tensor] = field(default_factory=dict)
    scaling: Scaling = "lora"
    target_rank: int | None = None
    total_steps: int = 1

    @property
    def targets(self) -> list[str]:
        """The adapted layers' names in the backbone."""
        return list(_by_layer(self.state, _NEEDED[self.kind]))


def unfit_for_peft(layers: Iterable[str], attentions: Iterable[str] = ()) -> str:
    """Why PEFT cannot hold adapters of these layers, some inside ``attentions`` that were taken
    apart; empty if it can.

    PEFT's LoRA of an nn.MultiheadAttention adds the change of ``out_proj`` twice (0.21; its pull
    request 3774), and it has no other adapter for one.
    """
    for attention in attentions:
        return f"layer {attention}: PEFT computes adapters of an nn.MultiheadAttention otherwise"
    for layer in layers:
        if "head" in layer.split("."):
            return f"layer {layer}: PEFT takes every module called head for the head"
    return ""


def to_peft(adapter: PeftAdapter) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The content of adapter_config.json, and the tensors of adapter_model.safetensors.

    MethodError for what PEFT cannot hold: a state that does not fit ``kind`` and ``rank``, or a
    layer with ``head`` in its name, which PEFT takes for a part of the head.
    """
    layers = _by_layer(adapter.state, _NEEDED[adapter.kind])
    tensors: dict[str, Tensor] = {}
    if problem := unfit_for_peft(layers):
        raise MethodError(problem)
    for layer, parameters in layers.items():
        _check_rank(layer, parameters, adapter)
        if adapter.kind != "adalora":
            parameters = parameters | {"lora_A.weight": _spread_groups(parameters)}
        tensors |= {f"{_BACKBONE}{layer}.{key}": tensor for key, tensor in parameters.items()}
    tensors |= {f"{_HEAD}{key}": tensor for key, tensor in adapter.head.items()}
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    return _config(adapter, layers), tensors


def _config(adapter: PeftAdapter, layers: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    common: dict[str, Any] = {
        "task_type": None,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "bias": "none",
        "fan_in_fan_out": False,
        "lora_dropout": 0.0,
        "lora_alpha": adapter.alpha,
        "target_modules": [f"backbone.{layer}" for layer in layers],
        "modules_to_save": ["head"] if adapter.head else None,
    }
    if adapter.kind != "adalora":
        return common | {
            "peft_type": "LORA",
            "r": adapter.rank,
            "use_rslora": adapter.scaling == "rslora",
            "use_dora": adapter.kind == "dora",
        }
    alive = {layer: parameters["lora_E"].shape[0] for layer, parameters in layers.items()}
    compacted = any(n < adapter.rank for n in alive.values())
    # PEFT makes init_r triplets and keeps those marked True, which then take the stored ones.
    pattern = {
        f"backbone.{layer}.lora_E": [True] * n + [False] * (adapter.rank - n)
        for layer, n in alive.items()
    }
    return common | {
        "peft_type": "ADALORA",
        "init_r": adapter.rank,
        "target_r": adapter.rank if adapter.target_rank is None else adapter.target_rank,
        "total_step": adapter.total_steps,
        "rank_pattern": pattern if compacted else None,
    }


def from_peft(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> PeftAdapter:
    """The inverse of ``to_peft``; also for files PEFT wrote, as far as they hold the same things.

    ResultsError naming the key for anything else.
    """
    kind = _kind(config)
    _refuse_unsupported(config, kind)
    state: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if key.startswith(_BACKBONE):
            state[key.removeprefix(_BACKBONE)] = tensor
        elif key.startswith(_HEAD):
            head[key.removeprefix(_HEAD)] = tensor
        else:
            raise ResultsError(
                f"adapter_model.safetensors: {key} is neither of the backbone nor of the head"
            )
    adalora = kind == "adalora"
    adapter = PeftAdapter(
        kind=kind,
        rank=_number(config, "init_r" if adalora else "r", int),
        alpha=_number(config, "lora_alpha", float),
        state=state,
        head=head,
        scaling="rslora" if config.get("use_rslora") else "lora",
        target_rank=_number(config, "target_r", int) if adalora else None,
        total_steps=_number(config, "total_step", int) if adalora else 1,
    )
    try:
        for layer, parameters in _by_layer(state, _NEEDED[kind]).items():
            _check_rank(layer, parameters, adapter)
            if not adalora:
                state[f"{layer}.lora_A.weight"] = _gather_groups(layer, parameters)
    except MethodError as error:
        raise ResultsError(f"adapter_model.safetensors: {error}") from error
    return adapter


def _kind(config: Mapping[str, Any]) -> Kind:
    match config.get("peft_type"):
        case "LORA":
            return "dora" if config.get("use_dora") else "lora"
        case "ADALORA":
            return "adalora"
        case other:
            raise ResultsError(
                f"adapter_config.json: peft_type {other!r} is not one of LORA, ADALORA"
            )


def _refuse_unsupported(config: Mapping[str, Any], kind: Kind) -> None:
    unsupported: list[str] = ["alpha_pattern", "lora_bias", "fan_in_fan_out", "layer_replication"]
    unsupported += ["rank_pattern"] if kind != "adalora" else ["use_rslora"]
    for key in unsupported:
        if config.get(key):
            raise ResultsError(f"adapter_config.json: {key} {config[key]!r} is not supported")
    if config.get("bias", "none") != "none":
        raise ResultsError(
            f"adapter_config.json: bias {config['bias']!r} is not supported; none is"
        )


def _number(config: Mapping[str, Any], key: str, kind: type[Any]) -> Any:
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, kind)) or value <= 0:
        raise ResultsError(f"adapter_config.json: {key} {value!r} is no positive {kind.__name__}")
    return value


def _by_layer(state: Mapping[str, Tensor], needed: Iterable[str]) -> dict[str, dict[str, Tensor]]:
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        name = next((name for name in needed if key.endswith(f".{name}")), None)
        if name is None:
            raise MethodError(f"{key} has no place; a layer has {', '.join(sorted(needed))}")
        layers.setdefault(key.removesuffix(f".{name}"), {})[name] = tensor
    for layer, parameters in layers.items():
        for name in sorted(set(needed) - parameters.keys()):
            raise MethodError(f"{layer}.{name} is missing")
    return layers


def _check_rank(layer: str, parameters: Mapping[str, Tensor], adapter: PeftAdapter) -> None:
    adalora = adapter.kind == "adalora"
    A, B = (parameters[f"lora_{factor}{'' if adalora else '.weight'}"] for factor in "AB")
    fits = A.dim() == B.dim() in (2, 4)
    if fits and adalora:
        rank = A.shape[0]
        fits = parameters["lora_E"].shape[:1] == B.shape[1:2] == (rank,) and rank <= adapter.rank
    elif fits:
        rank, share = A.shape[0], B.shape[1]
        fits = rank == adapter.rank and share > 0 and rank % share == 0
        fits = fits and (A.dim() == 4 or share == rank)
    if not fits:
        shapes = ", ".join(f"{key} {tuple(t.shape)}" for key, t in sorted(parameters.items()))
        raise MethodError(f"{layer} does not fit rank {adapter.rank}: {shapes}")


def _spread_groups(parameters: Mapping[str, Tensor]) -> Tensor:
    """A (r, c_in / g, kh, kw) as PEFT has it, (r, c_in, kh, kw): zero outside each row's group."""
    A, B = parameters["lora_A.weight"], parameters["lora_B.weight"]
    groups = A.shape[0] // B.shape[1]
    if groups == 1:
        return A
    blocks = A.chunk(groups)
    wide = A.new_zeros(A.shape[0], A.shape[1] * groups, *A.shape[2:])
    for g, block in enumerate(blocks):
        _block(wide, groups, g).copy_(block)
    return wide


def _gather_groups(layer: str, parameters: Mapping[str, Tensor]) -> Tensor:
    A, B = parameters["lora_A.weight"], parameters["lora_B.weight"]
    groups = A.shape[0] // B.shape[1]
    if groups == 1:
        return A
    blocks = torch.cat([_block(A, groups, g) for g in range(groups)])
    if blocks.count_nonzero() != A.count_nonzero():
        raise MethodError(f"{layer}.lora_A.weight reaches across the groups of its convolution")
    return blocks


def _block(wide: Tensor, groups: int, g: int) -> Tensor:
    rows, columns = wide.shape[0] // groups, wide.shape[1] // groups
    return wide[g * rows : (g + 1) * rows, g * columns : (g + 1) * columns]
