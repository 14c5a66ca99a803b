"""A finished run as it was at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from lora_cl.benchmarks import Benchmark
from lora_cl.benchmarks.recorded import Recorded, TaskNames
from lora_cl.config import Config
from lora_cl.errors import LoraClError, MethodError, ResultsError
from lora_cl.methods import Method
from lora_cl.records.integrity import first_fault
from lora_cl.records.layout import ADAPTERS, MODEL
from lora_cl.records.results import BANK, RESULT, read_own_result, read_result
from lora_cl.running.base import bare_network
from lora_cl.running.checkpoints import AdapterFolder, load_tensors
from lora_cl.running.machine import resolve_device
from lora_cl.running.making import CHOSEN, make_benchmark, make_method
from lora_cl.running.reader import Reader
from lora_cl.text import one_line

UNFIT = (LookupError, TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError)
"""What files may end in that are whole, and not of this run as it is."""


def load_run(folder: str | Path, device: str = "cpu", data_dir: str | Path | None = None) -> Method:
    """The method of a finished run as it was at its end: ``view(k)`` answers bit for bit the same.

    Its config is the one in the record, which is checked for damage, every file is the one that the
    run wrote, and data, weights and code of other packages are those that it was made with. No data
    set is looked for before ``method.benchmark.task(k)`` is asked for. Raises ResultsError if the
    folder does not hold a finished run.
    """
    return loaded(Path(folder), device, None if data_dir is None else Path(data_dir))[0]


def loaded(
    folder: Path, device: str = "cpu", data_dir: Path | None = None
) -> tuple[Method, dict[str, Any]]:
    """As ``load_run``, and the run's record beside the method."""
    result = finished_result(folder)
    place = resolve_device(device)
    with unfit_told(folder):
        return _restored(folder, config_of(folder, result), result, place, data_dir), result


def finished_result(folder: Path) -> dict[str, Any]:
    """The record of the finished run, or of the bank made of one, in ``folder``, its files there;
    ResultsError otherwise."""
    if not folder.is_dir():
        raise ResultsError(f"{folder}: does not exist; give the folder of a finished run")
    result = read_own_result(folder) or read_result(folder, BANK)
    if result is None or result.get("status") != "done":
        status = "unfinished" if result is None else one_line(result.get("status"), 40)
        raise ResultsError(f"{folder}: does not hold a finished run; this one is {status}")
    if fault := first_fault(folder, result):
        raise ResultsError(fault)
    return result


def config_of(folder: Path, result: Mapping[str, Any]) -> Config:
    """The config in a record; ResultsError if it is not one of this version."""
    try:
        return Config.model_validate(result["config"])
    except ValidationError as error:
        reason = one_line(error.errors()[0]["msg"].removeprefix("Value error, "))
        raise ResultsError(
            f"{folder / RESULT}: its config is not one of this version: {reason}"
        ) from None


@contextmanager
def unfit_told(folder: Path) -> Iterator[None]:
    """What a record and files end in that do not fit is a ResultsError of a line."""
    try:
        yield
    except LoraClError:
        raise
    except UNFIT as error:
        raise ResultsError(
            f"{folder}: its record and its files do not fit: {type(error).__name__}: "
            f"{one_line(error)}"
        ) from error


def _restored(
    folder: Path,
    config: Config,
    result: Mapping[str, Any],
    place: torch.device,
    data_dir: Path | None,
) -> Method:
    tensors, meta = load_tensors(folder / MODEL)
    content: Mapping[str, str] = result.get("content") or {}
    (seed,) = config.seeds
    benchmark = _recorded(config, result, place, data_dir, content)
    if meta["tasks"] != benchmark.n_tasks:
        raise ResultsError(f"{folder / MODEL}: is of {one_line(meta['tasks'], 20)} tasks")
    bank = AdapterFolder(folder / ADAPTERS, place, str(result["hash"]))
    network = bare_network(config, seed, benchmark.input_shape, place, data_dir, content)
    details = result.get("details") or {}
    chosen = {key: details[key] for key in CHOSEN if key in details}
    method = make_method(config, benchmark, bank, place, data_dir, content, network, chosen)
    there = [k for k in range(benchmark.n_tasks) if k not in result.get("removed", [])]
    for index in there:
        method.begin(benchmark.outlined(index))
    _require_alike(folder / MODEL, tensors, method.state_dict() | method.base_state())
    method.load_state_dict(tensors)
    method.load_base_state(tensors)
    method.reads = Reader(config.model, benchmark.input_shape, place, data_dir)
    for index in there:
        _require_sealed(method, bank, index)
    return method


def _recorded(
    config: Config,
    result: Mapping[str, Any],
    place: torch.device,
    data_dir: Path | None,
    content: Mapping[str, str],
) -> Recorded:
    """The benchmark as the record has it."""
    (seed,) = config.seeds
    names = [TaskNames(str(t["name"]), tuple(map(str, t["classes"]))) for t in result["tasks"]]
    shape = torch.Size(result["input"]["shape"])

    @cache
    def real() -> Benchmark:
        benchmark = make_benchmark(config, seed, place, data_dir, content)
        others = [*result.get("imported", []), *result.get("added", [])]
        if benchmark.n_tasks != len(names) - len(others):
            raise ResultsError(f"its config is of {benchmark.n_tasks} tasks, not {len(names)}")
        return benchmark

    return Recorded(names, shape, config.scenario, seed, place, real)


def _require_alike(path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Loading would turn a tensor of another type into the right one without a word."""
    for name, tensor in wanted.items():
        if name in found and (found[name].dtype, found[name].shape) != (tensor.dtype, tensor.shape):
            raise ResultsError(
                f"{path}: {name[:80]} is {_described(found[name])}, not {_described(tensor)}"
            )


def _require_sealed(method: Method, bank: AdapterFolder, index: int) -> None:
    """Raises ResultsError unless all that is sealed with a task is in its view, as it is."""
    path = bank.path(index) / bank.FILE
    try:
        sealed = bank.get(index, {})
        with method.view(index) as network:
            shown = Counter(map(_described, network.state_dict().values()))
            outputs = network.heads[0].out_features
    except (MethodError, *UNFIT) as error:
        raise ResultsError(f"{path}: does not fit the run: {one_line(error)}") from error
    if not method.sealed_alone:
        return
    if sealed and outputs != (classes := method.benchmark.task_classes(index)):
        raise ResultsError(f"{path}: has {outputs} outputs for the {classes} classes of its task")
    for name, tensor in sealed.items():
        if not shown[_described(tensor)]:
            raise ResultsError(f"{path}: {name[:80]} is {_described(tensor)}, which is not used")


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
