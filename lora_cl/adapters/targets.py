"""Which layers of a backbone to adapt."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

from torch import nn

from lora_cl.adapters.attention import UnpackedAttention, unpackable
from lora_cl.adapters.layer import AdaptedLayer, adaptable, depthwise
from lora_cl.errors import MethodError
from lora_cl.text import did_you_mean

_QUERY_KEY_VALUE = {"q", "k", "v", "qkv", "query", "key", "value"}
_QUERY_KEY_VALUE |= {"q_proj", "k_proj", "v_proj", "qkv_proj", "to_q", "to_k", "to_v", "to_qkv"}
_ATTENTION_OUT = {"o", "out", "proj", "o_proj", "out_proj", "to_out"}


def match_targets(backbone: nn.Module, targets: str | list[str]) -> list[str]:
    """The names of the layers to adapt, in the order of the backbone's modules.

    ``targets`` is one of

    - ``all-linear``: every Linear, Conv2d and MultiheadAttention but the depthwise convolutions,
      where an adapter would be larger than the layer (``left_out`` names them);
    - ``attention``: every MultiheadAttention; the Linear layers named like q, k and v, and their
      output projection;
    - ``last-k``, such as ``last-2``: the last k of the layers of ``all-linear``;
    - a list of layer names or globs (``*`` also matches dots); each must match something.

    An nn.MultiheadAttention is one layer here: both of its projections are adapted, as in PEFT.
    MethodError if nothing matches, and if what matches lies in one that cannot be taken apart:
    it reads the weights of its parts directly, so that an adapter there would do nothing.
    """
    layers = adaptable_layers(backbone)
    full = full_layers(backbone)
    if isinstance(targets, list):
        names = _match_globs(backbone, layers, targets)
    elif targets == "all-linear":
        names = list(full)
    elif targets == "attention":
        names = _attention(backbone, layers)
    elif match := re.fullmatch(r"last-([1-9]\d*)", targets):
        names = _last(full, int(match[1]), targets)
    else:
        known = ["all-linear", "attention", "last-1", "last-2", "last-3"]
        raise MethodError(
            f"targets: {targets!r} is unknown; use all-linear, attention, last-k (such as last-2) "
            f"or a list of layer names{did_you_mean(targets, known)}"
        )
    if not names:
        raise MethodError(f"0 layers matched targets={targets!r}; the model has: {_listed(layers)}")
    _refuse_packed(backbone, names, targets)
    return names


def full_layers(backbone: nn.Module) -> dict[str, nn.Module]:
    """Name to layer, for every layer of ``all-linear``."""
    layers = adaptable_layers(backbone)
    return {name: layer for name, layer in layers.items() if not depthwise(layer)}


def left_out(backbone: nn.Module, targets: object) -> str:
    """What ``targets`` leaves out of the layers that its name promises, in words; or nothing."""
    count = sum(depthwise(layer) for layer in adaptable_layers(backbone).values())
    if targets != "all-linear" or not count:
        return ""
    return (
        f"all-linear leaves out {count} depthwise convolution{'s' * (count > 1)}: "
        "an adapter there is larger than the layer"
    )


def adaptable_layers(backbone: nn.Module) -> dict[str, nn.Module]:
    """Name to layer, for every Linear, Conv2d and MultiheadAttention, adapted already or not."""
    layers: dict[str, nn.Module] = {}
    whole: set[str] = set()
    for name, module in backbone.named_modules():
        if whole.intersection(_parents(name)):
            continue
        if isinstance(module, AdaptedLayer | UnpackedAttention) or unpackable(module):
            whole.add(name)
            layers[name] = module
        elif adaptable(module):
            layers[name] = module
    return layers


def _match_globs(backbone: nn.Module, layers: Iterable[str], globs: list[str]) -> list[str]:
    found: set[str] = set()
    for glob in globs:
        matches = {name for name in layers if name == glob or fnmatchcase(name, glob)}
        if not matches:
            what = _what_else(backbone, layers, glob)
            raise MethodError(
                f"0 layers matched targets={glob!r}{what}; the model has: {_listed(layers)}"
                f"{did_you_mean(glob, layers)}"
            )
        found |= matches
    return [name for name in layers if name in found]


def _what_else(backbone: nn.Module, layers: Iterable[str], name: str) -> str:
    other = dict(backbone.named_modules()).get(name)
    if other is None:
        return ""
    if within := [layer for layer in layers if layer in _parents(name)]:
        return f" is a part of {within[0]}, which is adapted as a whole"
    return f" is of type {type(other).__name__}; only Linear and Conv2d can be adapted"


def _attention(backbone: nn.Module, layers: dict[str, nn.Module]) -> list[str]:
    _refuse_packed(backbone, list(_packed(backbone)), "attention")
    whole = {name for name, layer in layers.items() if _is_attention(layer)}
    linear = [name for name, layer in layers.items() if not _is_conv(layer)]
    parents = {_parent(name) for name in linear if _leaf(name) in _QUERY_KEY_VALUE}
    # "out" and "proj" are common names: they count only beside a query, key or value.
    wanted = _QUERY_KEY_VALUE | _ATTENTION_OUT
    return [
        name
        for name in linear
        if name in whole or (_leaf(name) in wanted and _parent(name) in parents)
    ]


def _last(layers: dict[str, nn.Module], k: int, targets: str) -> list[str]:
    if k > len(layers):
        raise MethodError(
            f"targets: {targets} is more than the model's {len(layers)} layers: {_listed(layers)}"
        )
    return list(layers)[-k:]


def _refuse_packed(backbone: nn.Module, names: list[str], targets: str | list[str]) -> None:
    for packed in _packed(backbone):
        if any(name == packed or name.startswith(f"{packed}.") for name in names):
            raise MethodError(
                f"targets={targets!r} reaches into {packed or 'the model'}, an "
                "nn.MultiheadAttention whose keys and values have widths of their own, or which "
                "adds some: only a plain one can be adapted; list other layers by name or glob"
            )


def _packed(backbone: nn.Module) -> list[str]:
    """Those attentions that cannot be taken apart."""
    return [
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.MultiheadAttention) and not unpackable(module)
    ]


def _is_attention(layer: nn.Module) -> bool:
    return isinstance(layer, UnpackedAttention | nn.MultiheadAttention)


def _is_conv(layer: nn.Module) -> bool:
    return isinstance(layer.base if isinstance(layer, AdaptedLayer) else layer, nn.Conv2d)


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _parents(name: str) -> list[str]:
    """The modules around ``name``, the nearest last."""
    words = name.split(".")
    return [".".join(words[:end]) for end in range(1, len(words))]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "no Linear or Conv2d layer"
