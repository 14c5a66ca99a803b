"""One run, from its config to its record: the only place where all the parts meet."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from lora_cl.base import base_network
from lora_cl.benchmarks import BENCHMARKS, Benchmark
from lora_cl.checkpoints import AdapterFolder, load_tensors
from lora_cl.config import Config, RunConfig, load_config
from lora_cl.data import DATASETS, Dataset, Source, data_root
from lora_cl.errors import DivergedError, LoraClError
from lora_cl.machine import MemoryPeak, describe, versions
from lora_cl.methods import METHODS, Method
from lora_cl.results import (
    CONFIG,
    RESULT,
    SCHEMA_VERSION,
    append_event,
    read_events,
    status_of,
    to_json,
    write_atomic,
)
from lora_cl.session import MODEL, Session

LOCK = ".lock"


@dataclass(frozen=True)
class Where:
    """Where a run happens: what its config leaves open because it changes no result."""

    results: Path
    device: str = "cpu"
    data_dir: Path | None = None


FINISHED = ("done", "diverged")
"""Statuses that doing the run again would not change."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the status on record, and in one line why, unless it is done."""

    status: str
    message: str | None = None


def run_one(run: RunConfig, where: Where, force: bool = False) -> Outcome:
    """Does one run, or the rest of it, and writes its record.

    What goes wrong in the run is recorded, not raised; KeyboardInterrupt is raised and leaves
    the run to be resumed. The status is ``locked`` if another process has the run folder.
    """
    folder = where.results / run.folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, timeout=1.0):
            status = None if force else status_of(folder)
            if status in FINISHED:
                return Outcome(status)
            return _run_locked(run, folder, where, force)
    except Timeout:
        return Outcome("locked")


def _run_locked(run: RunConfig, folder: Path, where: Where, force: bool) -> Outcome:
    if force:
        _empty(folder)
    write_atomic(folder / CONFIG, run.to_yaml().encode())
    (folder / RESULT).unlink(missing_ok=True)
    config = run.parse()
    device = torch.device(where.device)
    peak = MemoryPeak(device)
    started = time.time()
    session: Session | None = None
    benchmark: Benchmark | None = None
    status, error = "done", None
    with _reproducible(config.threads):
        try:
            benchmark = make_benchmark(config, run.seed, device, where.data_dir)
            append_event(
                folder, "run_started", label=run.label, seed=run.seed, tasks=benchmark.n_tasks
            )
            bank = AdapterFolder(folder / "adapters", device)
            method = make_method(config, benchmark, bank, device, where.data_dir)
            session = Session(config, benchmark, method, folder)
            session.execute()
        except DivergedError as diverged:
            status = "diverged"
            error = _error(diverged, diverged.task, diverged.step)
        except (LoraClError, OSError, RuntimeError, MemoryError, ValueError) as failure:
            status = "failed"
            place = session.place if session else None
            error = _error(failure, place.task if place else None, place.step if place else None)
    record = {
        **_identity(run, config, status),
        **_measured(session, peak),
        "error": error,
        "provenance": {
            "versions": versions(),
            **describe(device),
            "threads": config.threads,
            "data": _checksums(benchmark) if session else {},
            "started": started,
            "seconds": time.time() - started,
        },
    }
    write_atomic(folder / RESULT, to_json(record))
    if session is not None and status in FINISHED:
        session.checkpoints.clear()
    append_event(folder, "done", status=status)
    return Outcome(status, error["message"] if error else None)


def record_lost_run(run: RunConfig, where: Where, message: str) -> None:
    """Writes the record of a run whose process is gone; its checkpoint stays."""
    folder = where.results / run.folder
    error = {"kind": "WorkerLost", "message": message, "task": None, "step": None}
    for event in read_events(folder)[0]:
        if isinstance(event.get("task"), int):
            error |= {"task": event["task"], "step": event.get("step")}
    record = {
        **_identity(run, run.parse(), "failed"),
        **_measured(None, None),
        "error": error,
        "provenance": {"versions": versions()},
    }
    with suppress(OSError):
        write_atomic(folder / RESULT, to_json(record))
        append_event(folder, "done", status="failed")


def _empty(folder: Path) -> None:
    """Removes what earlier runs left in a run folder, the record first."""
    (folder / RESULT).unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


@contextmanager
def _reproducible(threads: int) -> Iterator[None]:
    """One way of computing, whatever the process did before; undone afterwards."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    random = torch.get_rng_state()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=False)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        torch.set_rng_state(random)


def _error(error: BaseException, task: int | None, step: int | None) -> dict[str, Any]:
    lines = str(error).splitlines() or [""]
    return {
        "kind": type(error).__name__,
        "message": lines[0][:500],
        "task": task,
        "step": step,
    }


def _identity(run: RunConfig, config: Config, status: str) -> dict[str, Any]:
    """What was run, in the words of the table."""
    (options,) = config.methods.values()
    return {
        "schema_version": SCHEMA_VERSION,
        "status": status,
        "experiment": run.experiment,
        "label": run.label,
        "method": options.method,
        "scenario": config.scenario,
        "benchmark": config.benchmark.name,
        "seed": run.seed,
        "hash": run.run_hash,
        "config_hash": run.config_hash,
        "config": run.resolved,
    }


def _measured(session: Session | None, peak: MemoryPeak | None) -> dict[str, Any]:
    """The numbers of a run, as far as it came."""
    if session is None:
        return {
            "n_tasks": None,
            "needs_task_id": None,
            "isolated": None,
            "accuracy_matrix": None,
            "untrained_accuracy": None,
            "cost": {},
            "routing": None,
            "details": {},
        }
    ledger, method = session.ledger, session.method
    n_tasks = session.benchmark.n_tasks
    missing: list[list[float | None]] = [[None] * n_tasks] * (n_tasks - len(ledger.accuracy))
    return {
        "n_tasks": n_tasks,
        "needs_task_id": method.needs_task_id,
        "isolated": method.isolated,
        "accuracy_matrix": ledger.accuracy + missing,
        "untrained_accuracy": ledger.untrained,
        "cost": cost(session) | {"peak_memory_bytes": peak.bytes() if peak else None},
        "routing": None,
        "details": method.details(),
    }


def cost(session: Session) -> dict[str, float | int | None]:
    """What the run cost. Null where nothing was learned.

    Parameters added per task: the mean growth of the total from the second task on; with a
    single task, what it added to the backbone.
    """
    ledger, method = session.ledger, session.method
    totals, trained = ledger.total_parameters, ledger.trained_parameters
    added: float | None = None
    if len(totals) > 1:
        added = (totals[-1] - totals[0]) / (len(totals) - 1)
    elif totals:
        added = float(totals[0] - session.base_parameters)
    return {
        "trained_params_per_task": sum(trained) / len(trained) if trained else None,
        "added_params_per_task": added,
        "total_params": totals[-1] if totals else None,
        "stored_bytes": method.stored_bytes() if totals else None,
        "train_seconds": ledger.train_seconds,
        "eval_seconds": ledger.eval_seconds,
    }


def _checksums(benchmark: Benchmark | None) -> dict[str, str]:
    if benchmark is None:
        return {}
    data = [benchmark.dataset(index) for index in range(len(benchmark.sources))]
    return {dataset.name: dataset.checksum for dataset in data}


def make_benchmark(
    config: Config, seed: int, device: torch.device, data_dir: Path | None
) -> Benchmark:
    """The benchmark of a run; data sets are loaded when first asked for."""
    kind = BENCHMARKS[config.benchmark.name]
    sources = [
        DATASETS[options.name](options) for options in kind.dataset_options(config.benchmark)
    ]
    on_device: dict[int, Dataset] = {}

    def load(source: Source) -> Dataset:
        if id(source) not in on_device:
            data = source.load(data_root(data_dir))
            tensors = {
                name: getattr(data, name).to(device)
                for name in ("x_train", "y_train", "x_test", "y_test")
            }
            on_device[id(source)] = Dataset(
                **tensors,
                name=data.name,
                classes=data.classes,
                class_names=data.class_names,
                checksum=data.checksum,
            )
        return on_device[id(source)]

    return kind(config.benchmark, config.scenario, seed, sources, load)


def make_method(
    config: Config,
    benchmark: Benchmark,
    bank: AdapterFolder,
    device: torch.device,
    data_dir: Path | None,
) -> Method:
    """The run's method on its base network, before the first task."""
    (options,) = config.methods.values()
    (seed,) = config.seeds
    method = METHODS[options.method](options)
    network = base_network(config, seed, benchmark.input_shape, device, data_dir)
    bank.encode, bank.decode = method.to_peft, method.from_peft
    method.setup(network, benchmark, seed, bank)
    return method


def load_run(folder: Path, device: str = "cpu", data_dir: Path | None = None) -> Method:
    """The method of a finished run as it was at its end: ``view(k)`` answers bit for bit the same.

    Raises ResultsError if the folder does not hold a finished run.
    """
    config = load_config(folder / CONFIG).config
    place = torch.device(device)
    tensors, meta = load_tensors(folder / MODEL)
    benchmark = make_benchmark(config, config.seeds[0], place, data_dir)
    bank = AdapterFolder(folder / "adapters", place)
    method = make_method(config, benchmark, bank, place, data_dir)
    for index in range(int(meta["tasks"])):
        method.begin(benchmark.task(index))
    method.load_state_dict(tensors)
    return method
