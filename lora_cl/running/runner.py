"""One run, from its config to its record: the only place where all the parts meet."""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from pydantic import ValidationError

from lora_cl.benchmarks import BENCHMARKS, Benchmark
from lora_cl.config import Config, RunConfig
from lora_cl.data import DATASETS, data_root
from lora_cl.errors import DivergedError, LoraClError, ResultsError
from lora_cl.methods import METHODS, Method
from lora_cl.records.events import append_event, read_events
from lora_cl.records.files import remove_temporaries, write_atomic
from lora_cl.records.folders import CONFIG
from lora_cl.records.results import RESULT, read_result, status_of, write_result
from lora_cl.running.base import base_network
from lora_cl.running.checkpoints import AdapterFolder, load_tensors, require_owner
from lora_cl.running.machine import MemoryPeak, versions
from lora_cl.running.recording import EXPECTED, describe_error, identity, measured, provenance
from lora_cl.running.resuming import GiveWay
from lora_cl.running.session import MODEL, Session

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


def run_one(
    run: RunConfig, where: Where, force: bool = False, give_way: GiveWay | None = None
) -> Outcome:
    """Does one run, or the rest of it, and writes its record.

    ``give_way`` is called between two steps now and then, and may wait while others compute.

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
            return _run_locked(run, folder, where, force, give_way)
    except Timeout:
        return Outcome("locked")
    except Exception as error:  # Not even a record could be written, such as on a full disk.
        return Outcome("failed", describe_error(error, None, None)["message"])


def _run_locked(
    run: RunConfig, folder: Path, where: Where, force: bool, give_way: GiveWay | None
) -> Outcome:
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
            session = Session(config, benchmark, method, folder, run.run_hash, give_way)
            session.execute()
        except DivergedError as diverged:
            status = "diverged"
            error = describe_error(diverged, diverged.task, diverged.step)
        except Exception as failure:  # One run's failure is its own, whatever it is.
            status = "failed"
            task = session.place.task if session else None
            error = describe_error(failure, task, session.progress.step if session else None)
            if not isinstance(failure, EXPECTED):
                (folder / TRACEBACK).write_text(traceback.format_exc())
    try:
        numbers = measured(session, peak)
    except (LoraClError, OSError) as failure:  # A sealed task is damaged, and now its cost unknown.
        status, error = "failed", error or describe_error(failure, None, None)
        numbers = measured(None, None)
    there = benchmark if session else None
    record = {
        **identity(run, config, status),
        **numbers,
        "error": error,
        "provenance": provenance(config, there, device, folder, data_root(where.data_dir)),
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
    for event, _ in read_events(folder):
        error |= {key: event[key] for key in ("task", "step") if isinstance(event.get(key), int)}
    record = {
        **identity(run, run.parse(), "failed"),
        **measured(None, None),
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


def make_benchmark(
    config: Config, seed: int, device: torch.device, data_dir: Path | None
) -> Benchmark:
    """The benchmark of a run; data sets are loaded when first asked for."""
    kind = BENCHMARKS[config.benchmark.name]
    sources = [
        DATASETS[options.name](options) for options in kind.dataset_options(config.benchmark)
    ]
    root = data_root(data_dir)
    return kind(
        config.benchmark,
        config.scenario,
        seed,
        sources,
        lambda source: source.load(root),
        device,
        config.stream,
    )


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
    network = base_network(config, seed, benchmark, device, data_dir)
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
    try:
        config = Config.model_validate(result["config"])
    except ValidationError:
        raise ResultsError(f"{folder}: its config is not one of this version") from None
    place = torch.device(device)
    tensors, meta = load_tensors(folder / MODEL)
    require_owner(folder / MODEL, meta, run=run)
    benchmark = make_benchmark(config, config.seeds[0], place, data_dir)
    bank = AdapterFolder(folder / "adapters", place, run)
    for task_id in meta["sealed"]:
        if task_id not in bank:
            raise ResultsError(f"{bank.path(task_id)}: the adapter of task {task_id} is missing")
    method = make_method(config, benchmark, bank, place, data_dir)
    for index in range(int(meta["tasks"])):
        method.begin(benchmark.task(index))
    method.load_state_dict(tensors)
    return method
