"""One run, from its config to its record: the only place where all the parts meet."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from lora_cl.base import base_network, weights_checksum
from lora_cl.benchmarks import BENCHMARKS, Benchmark
from lora_cl.checkpoints import AdapterFolder, load_tensors, require_owner
from lora_cl.config import Config, RunConfig
from lora_cl.data import DATASETS, Dataset, Source, data_root
from lora_cl.errors import DivergedError, LoraClError, ResultsError
from lora_cl.machine import MemoryPeak, describe, versions
from lora_cl.methods import METHODS, Method
from lora_cl.results import (
    CONFIG,
    RESULT,
    SCHEMA_VERSION,
    append_event,
    read_events,
    read_result,
    remove_temporaries,
    status_of,
    write_atomic,
    write_result,
)
from lora_cl.session import MODEL, Session

LOCK, LOCK_SECONDS = ".lock", 1.0
TRACEBACK = "traceback.txt"


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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK, timeout=LOCK_SECONDS):
            status = None if force else status_of(folder, run.run_hash)
            if status in FINISHED:
                return Outcome(status)
            return _run_locked(run, folder, where, force)
    except Timeout:
        return Outcome("locked")
    except Exception as error:  # Not even a record could be written, such as on a full disk.
        return Outcome("failed", _error(error, None, None)["message"])


def _run_locked(run: RunConfig, folder: Path, where: Where, force: bool) -> Outcome:
    if force:
        _empty(folder)
    remove_temporaries(folder)
    write_atomic(folder / CONFIG, run.to_yaml().encode())
    for name in (RESULT, TRACEBACK):
        (folder / name).unlink(missing_ok=True)
    config = run.parse()
    device = torch.device(where.device)
    peak = MemoryPeak(device)
    session: Session | None = None
    benchmark: Benchmark | None = None
    status, error = "done", None
    with _reproducible(config.threads):
        try:
            benchmark = make_benchmark(config, run.seed, device, where.data_dir)
            append_event(
                folder, "run_started", label=run.label, seed=run.seed, tasks=benchmark.n_tasks
            )
            bank = AdapterFolder(folder / "adapters", device, run.run_hash)
            method = make_method(config, benchmark, bank, device, where.data_dir)
            session = Session(config, benchmark, method, folder, run.run_hash)
            session.execute()
        except DivergedError as diverged:
            status = "diverged"
            error = _error(diverged, diverged.task, diverged.step)
        except Exception as failure:  # One run's failure is its own, whatever it is.
            status = "failed"
            task = session.place.task if session else None
            error = _error(failure, task, session.progress.step if session else None)
            if not isinstance(failure, (LoraClError, OSError, MemoryError)):
                (folder / TRACEBACK).write_text(traceback.format_exc())
    try:
        measured = _measured(session, peak)
    except (LoraClError, OSError) as failure:  # A sealed task is damaged, and now its cost unknown.
        status, error = "failed", error or _error(failure, None, None)
        measured = _measured(None, None)
    record = {
        **_identity(run, config, status),
        **measured,
        "error": error,
        "provenance": {
            "versions": versions(),
            **describe(device),
            "threads": config.threads,
            "data": _checksums(config, benchmark, where.data_dir) if session else {},
            **sessions(folder),
        },
    }
    write_result(folder, record)
    if session is not None and status in FINISHED:
        session.checkpoints.clear()
    append_event(folder, "done", status=status)
    return Outcome(status, error["message"] if error else None)


def record_lost_run(run: RunConfig, where: Where, message: str, force: bool = False) -> Outcome:
    """Writes the record of a run whose process is gone; its checkpoint stays.

    Unless that process was done with it, or another one has the run folder by now.
    """
    folder = where.results / run.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / LOCK, timeout=LOCK_SECONDS):
            status = None if force else status_of(folder, run.run_hash)
            if status in FINISHED:
                return Outcome(status)
            _record_lost(run, folder, message)
    except Timeout:
        return Outcome("locked")
    except OSError as error:
        message = f"{message}; no record could be written: {error.strerror}"
    return Outcome("failed", message)


def _record_lost(run: RunConfig, folder: Path, message: str) -> None:
    error = {"kind": "WorkerLost", "message": message, "task": None, "step": None}
    for event in read_events(folder)[0]:
        error |= {key: event[key] for key in ("task", "step") if isinstance(event.get(key), int)}
    record = {
        **_identity(run, run.parse(), "failed"),
        **_measured(None, None),
        "error": error,
        "provenance": {"versions": versions(), "threads": run.resolved["threads"]},
    }
    write_result(folder, record)
    append_event(folder, "done", status="failed")


def _empty(folder: Path) -> None:
    """Removes what earlier runs left in a run folder, the record first."""
    (folder / RESULT).unlink(missing_ok=True)
    for path in list(folder.iterdir()):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


@contextmanager
def _reproducible(threads: int) -> Iterator[None]:
    """One way of computing, whatever the process did before; undone afterwards."""
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    random = torch.get_rng_state()
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode("error")  # Says the same, and imports no compiler for it.
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_deterministic_debug_mode(before[1])
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

    def whole(rows: list[list[float | None]]) -> list[list[float | None]]:
        return rows + [[None] * n_tasks for _ in range(n_tasks - len(rows))]

    routing = None
    if method.router != "oracle":
        routing = {
            "router": method.router,
            "accuracy_matrix_oracle": whole(ledger.accuracy),
            "router_accuracy": whole(ledger.router_accuracy),
        }
    return {
        "n_tasks": n_tasks,
        "needs_task_id": method.needs_task_id,
        "isolated": method.isolated,
        "accuracy_matrix": whole(ledger.routed if routing else ledger.accuracy),
        "untrained_accuracy": ledger.untrained,
        "cost": cost(session) | {"peak_memory_bytes": peak.bytes() if peak else None},
        "routing": routing,
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


def _checksums(
    config: Config, benchmark: Benchmark | None, data_dir: Path | None
) -> dict[str, str | None]:
    """By the key of the config that names the data; None for what cannot be read (any more)."""
    keys: dict[str, Callable[[], str]] = {}
    for index in range(len(benchmark.sources) if benchmark else 0):
        assert benchmark is not None
        key = "benchmark.dataset" if len(benchmark.sources) == 1 else f"benchmark.datasets.{index}"
        keys[key] = partial(lambda index: benchmark.dataset(index).checksum, index)
    base = config.base
    if base.weights is not None:
        keys["base.weights"] = partial(weights_checksum, Path(base.weights))
    if base.pretrain is not None:
        source = DATASETS[base.pretrain.dataset.name](base.pretrain.dataset)
        keys["base.pretrain.dataset"] = lambda: source.load(data_root(data_dir)).checksum
    found: dict[str, str | None] = dict.fromkeys(keys)
    for key, checksum in keys.items():
        with suppress(LoraClError):
            found[key] = checksum()
    return found


def sessions(folder: Path) -> dict[str, float | int]:
    """When a run was first started, seconds of work on it, and in how many sessions.

    Of a session that was killed counts what its log tells.
    """
    starts: list[float] = []
    seconds = latest = 0.0
    for event in read_events(folder)[0]:
        moment = event.get("time")
        if isinstance(moment, int | float):
            if event["event"] == "run_started":
                seconds += latest - starts[-1] if starts else 0.0
                starts.append(float(moment))
            latest = float(moment)
    now = time.time()
    started = starts[0] if starts else now
    seconds += now - starts[-1] if starts else 0.0
    return {"started": started, "seconds": max(0.0, seconds), "sessions": len(starts)}


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

    Its config is the one in the record, which is checked for damage. Raises ResultsError if the
    folder does not hold a finished run.
    """
    result = read_result(folder)
    if result is None or result.get("status") != "done":
        status = "unfinished" if result is None else result.get("status")
        raise ResultsError(f"{folder}: does not hold a finished run; this one is {status}")
    run = str(result["hash"])
    config = Config.model_validate(result["config"])
    place = torch.device(device)
    tensors, meta = load_tensors(folder / MODEL)
    require_owner(folder / MODEL, meta, run=run)
    benchmark = make_benchmark(config, config.seeds[0], place, data_dir)
    bank = AdapterFolder(folder / "adapters", place, run)
    method = make_method(config, benchmark, bank, place, data_dir)
    for index in range(int(meta["tasks"])):
        method.begin(benchmark.task(index))
    method.load_state_dict(tensors)
    return method
