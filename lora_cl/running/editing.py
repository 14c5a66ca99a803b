"""A bank made of a finished run's: with an adapter that was trained elsewhere, or without one.

The run is never written to: a bank is a folder of its own, with a record that says what it is of.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from lora_cl.adapters import AdaptedLayer, PeftAdapter, adapted_layers, from_peft, lora_scale
from lora_cl.data.weights import read_safetensors
from lora_cl.errors import MethodError, ResultsError
from lora_cl.files import read_regular
from lora_cl.methods.adapted import AdapterPerTask
from lora_cl.records.confusion import NAME as CONFUSION
from lora_cl.records.files import make_empty, make_within
from lora_cl.records.integrity import manifest
from lora_cl.records.layout import (
    ADAPTER,
    ADAPTER_CONFIG,
    ADAPTERS,
    MODEL,
    SEALED,
    task_folder,
)
from lora_cl.records.results import BANK, write_result
from lora_cl.running.checkpoints import AdapterFolder, load_tensors, save_tensors
from lora_cl.running.exporting import HEAD, PEFT, Names, names_of
from lora_cl.text import one_line

MAX_CONFIG = 2**24
"""Bytes of PEFT's config, which names every layer."""

Record = dict[str, Any]

NOTHING: Mapping[str, Tensor] = {}


def with_adapter(
    method: AdapterPerTask,
    result: Record,
    source: Path,
    name: str,
    classes: Sequence[str],
    run: Path,
    output: Path,
) -> int:
    """Writes the bank of ``run`` and the adapter in ``source``, in PEFT's format, as a new task
    into the folder ``output``; the number of the task. ResultsError for what does not fit.

    ``classes`` are the names of its outputs, in their order.
    """
    sealed = read_adapter(method, source)
    outputs = len(sealed["head.weight"])
    if len(classes) != outputs:
        raise ResultsError(f"{source}: has {outputs} outputs, and {len(classes)} classes are named")
    task, record = with_one_more(result, name, classes, None, "imported")
    write_bank(method, record, run, output, {task: sealed})
    return task


def with_one_more(
    result: Record, name: str, classes: Sequence[str], accuracy: float | None, how: str
) -> tuple[int, Record]:
    """The number of a task more, and the record that knows it; ``how`` it came is a key there."""
    task = len(result["tasks"])
    padded = [[*row, None] for row in result["accuracy_matrix"]]
    return task, result | {
        "tasks": [*result["tasks"], {"name": name, "classes": list(classes)}],
        "n_tasks": task + 1,
        "accuracy_matrix": [*padded, [*result["accuracy_matrix"][-1], accuracy]],
        CONFUSION: None,
        how: [*result.get(how, []), task],
    }


def without_adapter(
    method: AdapterPerTask, result: Record, task: int, run: Path, output: Path
) -> None:
    """Writes the bank of ``run`` without ``task`` into the folder ``output``; the others keep their
    numbers. MethodError if none would be left."""
    if len(method.bank) < 2:
        raise MethodError(f"task {task} is the only one; a bank holds at least one")
    changed = {"removed": [*result.get("removed", []), task]}
    write_bank(method, result | changed, run, output, {})


def read_adapter(method: AdapterPerTask, source: Path) -> dict[str, Tensor]:
    """An adapter in PEFT's format, with its head, as it would be sealed in the bank of ``method``.

    One of a smaller rank, or of another alpha, becomes one of the run's that computes the same.
    ResultsError for one of another base, another kind, or that is not whole.
    """
    names = names_of(method)
    config = _read_config(source / ADAPTER_CONFIG)
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


def _tensors(source: Path, names: Names) -> dict[str, Tensor]:
    """The tensors by the names that they have in PEFT's format of a run."""
    found = read_safetensors(source / ADAPTER)
    tensors = {}
    for name, tensor in found.items():
        if not name.startswith(PEFT):
            told = one_line(name, limit=80)
            raise ResultsError(f"{source / ADAPTER}: {told!r} is no tensor of PEFT's")
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
    outputs = shapes.get("weight", (0,))[0]
    if shapes != {"weight": (outputs, features), "bias": (outputs,)}:
        told = ", ".join(f"{k} {shape}" for k, shape in shapes.items())
        raise ResultsError(f"{source}: its head ({one_line(told)}) takes no {features} features")


def write_bank(
    method: AdapterPerTask,
    record: Record,
    run: Path,
    output: Path,
    new: Mapping[int, dict[str, Tensor]],
    kept: Mapping[str, Tensor] = NOTHING,
) -> None:
    """Writes the bank that ``record`` tells of into ``output``: the tasks of ``run`` that are not
    removed, byte for byte, and ``new`` ones, sealed; ``kept`` is state that they bring besides."""
    make_empty(output)
    removed = record.get("removed", [])
    bank = AdapterFolder(output / ADAPTERS, method.network.device, str(record["hash"]))
    bank.encode, bank.decode = method.to_peft, method.from_peft
    for task in sorted(method.bank):
        if task not in removed:  # The very bytes: nothing of a task before moves.
            place = make_within(output, ADAPTERS, task_folder(task))
            for file in SEALED:
                if (found := run / ADAPTERS / task_folder(task) / file).exists():
                    shutil.copyfile(found, place / file)
    for task, sealed in new.items():
        bank[task] = sealed
    tensors, meta = load_tensors(run / MODEL)
    meta |= {"tasks": record["n_tasks"], "sealed": sorted(bank)}
    save_tensors(output / MODEL, {**tensors, **kept}, meta)
    # A bank is no run: what was measured of the run is told by the run.
    told = {k: v for k, v in record.items() if k not in ("cost", "routing", "validation_matrix")}
    write_result(output, {**told, "files": manifest(output), "bank_of": record["hash"]}, BANK)
