"""An adapter that PEFT trained, as one that a run could have sealed; or why it cannot be."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from lora_cl.adapters import AdaptedLayer, PeftAdapter, adapted_layers, from_peft, lora_scale
from lora_cl.data.weights import read_safetensors
from lora_cl.errors import ResultsError
from lora_cl.files import read_regular
from lora_cl.methods.adapted import AdapterPerTask
from lora_cl.models import Origin
from lora_cl.records.layout import ADAPTER, ADAPTER_CONFIG
from lora_cl.running.exporting import HEAD, PEFT, Names, names_of
from lora_cl.text import one_line

MAX_CONFIG = 2**24
"""Bytes of PEFT's config, which names every layer."""


def read_adapter(method: AdapterPerTask, source: Path) -> dict[str, Tensor]:
    """An adapter in PEFT's format, with its head, as it would be sealed in the bank of ``method``.

    One of a smaller rank, or of another alpha, becomes one of the run's that computes the same.
    ResultsError for one of another base, another kind, or that is not whole.
    """
    names = names_of(method)
    config = _read_config(source / ADAPTER_CONFIG)
    _require_base(config.get("base_model_name_or_path"), names.origin, source)
    tensors = _tensors(source, names)
    if names.origin and names.origin.transposed and config.get("fan_in_fan_out"):
        config["fan_in_fan_out"] = False  # Here its layers are linear.
    try:
        adapter = from_peft(config, tensors)
    except ResultsError as error:
        raise ResultsError(f"{source}: {error}") from None
    wanted = PeftAdapter(state={}, head={}, **method.peft_options())
    if adapter.kind != wanted.kind:
        raise ResultsError(f"{source}: holds {adapter.kind}, and the run {wanted.kind}")
    layers = adapted_layers(method.network.backbone)
    state = {k: t.to(torch.float32) for k, t in adapter.state.items()}
    if adapter.kind == "adalora":
        if (adapter.rank, adapter.alpha) != (wanted.rank, wanted.alpha):
            raise ResultsError(
                f"{source}: has init_r {adapter.rank} and lora_alpha {adapter.alpha:g}, the run "
                f"rank {wanted.rank} and alpha {wanted.alpha:g}"
            )
    else:
        state = _brought_to(state, adapter, wanted, source)
    _require_layers(state, layers, adapter, source)
    head = {k: t.to(torch.float32) for k, t in adapter.head.items()}
    _require_head(head, method.network.features, names, source)
    sealed = {f"backbone.{k}": t for k, t in state.items()} | {
        f"head.{k}": t for k, t in head.items()
    }
    for key, tensor in sealed.items():
        if not bool(torch.isfinite(tensor).all()):
            raise ResultsError(f"{source}: {key} holds a NaN or infinite value")
    return {key: tensor.to(method.network.device) for key, tensor in sealed.items()}


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(read_regular(path, MAX_CONFIG))
    except FileNotFoundError:
        raise ResultsError(f"{path}: is missing") from None
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ResultsError(f"{path}: is not a whole JSON file") from None
    if not isinstance(config, dict):
        raise ResultsError(f"{path}: is not PEFT's config")
    return config


def _require_base(named: object, origin: Origin | None, source: Path) -> None:
    """Refuses a base of another name. A folder may hold any network: there the shapes decide."""
    if not isinstance(named, str) or origin is None or origin.library != "transformers":
        return
    folders = any(Path(name).is_absolute() or Path(name).exists() for name in (named, origin.name))
    if not folders and Path(named).name != Path(origin.name).name:
        raise ResultsError(
            f"{source}: is of the base {one_line(named, 80)}, and the run of {origin.name}; if it "
            f"is the same, name it so in {ADAPTER_CONFIG}"
        )


def _tensors(source: Path, names: Names) -> dict[str, Tensor]:
    """The tensors by the names that they have in PEFT's format of a run."""
    found = read_safetensors(source / ADAPTER)
    tensors = {}
    for name, tensor in found.items():
        if not name.startswith(PEFT):
            told = one_line(name, limit=80)
            raise ResultsError(f"{source / ADAPTER}: {told!r} is no tensor of PEFT's")
        if not tensor.is_floating_point():
            told = f"{one_line(name, limit=80)} is of {str(tensor.dtype).removeprefix('torch.')}"
            raise ResultsError(f"{source / ADAPTER}: {told}; floating point is needed")
        tensors[f"{PEFT}{names.back(name.removeprefix(PEFT))}"] = tensor
    if names.head is None and (source / HEAD).exists():
        head = read_safetensors(source / HEAD)
        tensors |= {f"{PEFT}head.{name}": tensor for name, tensor in head.items()}
    return tensors


def _brought_to(
    state: Mapping[str, Tensor], adapter: PeftAdapter, wanted: PeftAdapter, source: Path
) -> dict[str, Tensor]:
    """The same changes with the run's rank and scale: rows and columns of zeros, and the ratio of
    the scales in B."""
    if adapter.rank > wanted.rank:
        raise ResultsError(f"{source}: has rank {adapter.rank}, and the run {wanted.rank}")
    more = wanted.rank - adapter.rank
    ratio = lora_scale(adapter.alpha, adapter.rank, adapter.scaling)
    ratio /= lora_scale(wanted.alpha, wanted.rank, wanted.scaling)
    made = dict(state)
    for key, tensor in state.items():
        if key.endswith(".lora_A.weight") and more:
            made[key] = torch.cat([tensor, tensor.new_zeros(more, *tensor.shape[1:])])
        elif key.endswith(".lora_B.weight"):
            zeros = [tensor.new_zeros(len(tensor), more, *tensor.shape[2:])] if more else []
            made[key] = torch.cat([tensor * ratio if ratio != 1.0 else tensor, *zeros], dim=1)
    return made


def _require_layers(
    state: Mapping[str, Tensor],
    layers: Mapping[str, AdaptedLayer],
    adapter: PeftAdapter,
    source: Path,
) -> None:
    """Every layer that the run adapts, no other, each of its shape."""
    targets = adapter.targets
    for layer in targets:
        if layer not in layers:
            known = one_line(", ".join(layers), limit=120)
            raise ResultsError(
                f"{source}: is of another base, or other targets: it adapts {one_line(layer, 80)}, "
                f"the run {known}"
            )
    for layer, adapted in layers.items():
        if layer not in targets:
            raise ResultsError(f"{source}: does not adapt {layer}, which the run does")
        factor = "" if adapter.kind == "adalora" else ".weight"
        A, B = (state[f"{layer}.lora_{letter}{factor}"] for letter in "AB")
        weight = cast(Tensor, adapted.base.weight)
        shape = math.prod(A.shape[1:]), len(B)
        if shape != (math.prod(weight.shape[1:]), len(weight)):
            raise ResultsError(
                f"{source}: is of another base: {layer} is {shape[1]} x {shape[0]} there, and "
                f"{len(weight)} x {math.prod(weight.shape[1:])} in the run"
            )


def _require_head(head: Mapping[str, Tensor], features: int, names: Names, source: Path) -> None:
    if not head:
        where = f"modules_to_save: [{names.head}]" if names.head else HEAD
        raise ResultsError(f"{source}: holds no head: a linear layer is needed, in {where}")
    shapes = {k: tuple(t.shape) for k, t in head.items()}
    outputs = (shapes.get("weight") or (0,))[0]
    if shapes != {"weight": (outputs, features), "bias": (outputs,)}:
        told = ", ".join(f"{k} {shape}" for k, shape in shapes.items())
        raise ResultsError(f"{source}: its head ({one_line(told)}) takes no {features} features")
