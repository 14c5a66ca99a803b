"""One run, from its config to its record: the only place where all the parts meet."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import Timeout

from lora_cl.config import Config, RunConfig
from lora_cl.errors import DivergedError, LoraClError, OutOfTimeError
from lora_cl.records.events import append_event, read_events
from lora_cl.records.files import remove_files, write_atomic
from lora_cl.records.folders import CONFIG
from lora_cl.records.holder import held, holder, noted
from lora_cl.records.integrity import manifest
from lora_cl.records.layout import ADAPTERS, LOCK, TRACEBACK, remove_temporaries
from lora_cl.records.results import RESULT, write_result
from lora_cl.running.arithmetic import computed_with, reproducible
from lora_cl.running.checkpoints import AdapterFolder
from lora_cl.running.folder import FINISHED, RunFolder
from lora_cl.running.machine import MemoryPeak, code_version, require_same, versions
from lora_cl.running.making import make_benchmark, make_method
from lora_cl.running.probing import probe
from lora_cl.running.recording import EXPECTED, describe_error, identity, measured, provenance
from lora_cl.running.resuming import UnfitCheckpointError
from lora_cl.running.session import Session
from lora_cl.running.timing import GiveWay
from lora_cl.text import one_line

UNFINISHED = "unfinished"


@dataclass(frozen=True)
class Where:
    """Where a run happens, and until when: what its config leaves open as it changes no result.

    At ``until``, in seconds since 1970, a run saves a checkpoint and stops; None: never.
    """

    results: Path
    device: str = "cpu"
    data_dir: Path | None = None
    until: float | None = None

    @property
    def time_is_up(self) -> bool:
        return self.until is not None and time.time() >= self.until


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the status on record, and in one line why, unless it is done."""

    status: str
    message: str | None = None


def run_one(
    run: RunConfig, where: Where, force: bool = False, give_way: GiveWay | None = None
) -> Outcome:
    """Does one run, or the rest of it, and writes its record; with ``force`` all of it, again.

    ``give_way`` is called between two steps now and then, and may wait while others compute.

    What goes wrong in the run is recorded, not raised; KeyboardInterrupt is raised and leaves
    the run to be resumed. The status is ``locked`` if another process has the run folder,
    and the message says which; it is ``unfinished`` if time was up.
    """
    place = RunFolder(where.results, run)
    try:
        place.make()
        with held(place.path), noted(place.path):
            if not force and (status := place.finished() or place.adopted()):
                return Outcome(status)
            if where.time_is_up:
                return Outcome(UNFINISHED)
            if not force:
                return _run_locked(run, place.path, where, give_way)
            outcome = _run_locked(run, place.begin_anew(), where, give_way)
            if outcome.status in FINISHED:
                place.replace()
            return outcome
    except Timeout:
        return locked(place)
    except Exception as error:  # Not even a record could be written, such as on a full disk.
        return Outcome("failed", describe_error(error, None, None)["message"])


def locked(place: RunFolder) -> Outcome:
    """How a run ends whose folder another process has."""
    return Outcome("locked", f"{place.path} is held by {holder(place.path / LOCK)}")


def _run_locked(run: RunConfig, folder: Path, where: Where, give_way: GiveWay | None) -> Outcome:
    remove_temporaries(folder)
    write_atomic(folder / CONFIG, run.to_yaml().encode())
    remove_files(folder, (RESULT, TRACEBACK))
    config = run.parse()
    device = torch.device(where.device)
    peak = MemoryPeak(device)
    session: Session | None = None
    probed: dict[str, float] | None = None
    status, error = "done", None
    with reproducible(config.threads, "a run"):
        try:
            require_same(run.content, "code", code_version())
            session = _session(run, config, folder, where, give_way)
            try:
                session.execute()
            except UnfitCheckpointError:  # It is gone: from the beginning, then.
                session = _session(run, config, folder, where, give_way)
                session.execute()
            probed = probe(run, session, device, where.data_dir)
        except OutOfTimeError:
            append_event(folder, "stopped")
            return Outcome(UNFINISHED)
        except DivergedError as diverged:
            status = "diverged"
            error = describe_error(diverged, diverged.task, diverged.step)
        except Exception as failure:  # One run's failure is its own, whatever it is.
            status = "failed"
            error = describe_error(failure, *_whereabouts(session))
            if not isinstance(failure, EXPECTED):
                write_atomic(folder / TRACEBACK, traceback.format_exc().encode("utf-8", "replace"))
    files: dict[str, str] = {}
    try:
        numbers = measured(session, peak)
        if status == "done":
            files = manifest(folder)
    except (LoraClError, OSError) as failure:  # A sealed task is damaged, and now its cost unknown.
        status, error = "failed", error or describe_error(failure, None, None)
        numbers = measured(None, None)
    record = {
        **identity(run, config, status),
        **numbers,
        "probe": probed,
        "files": files,
        "error": error,
        "provenance": provenance(run, device, folder),
    }
    write_result(folder, record)
    if session is not None and status in FINISHED:
        session.resuming.checkpoints.clear()
    append_event(folder, "done", status=status)
    return Outcome(status, error["message"] if error else None)


def _session(
    run: RunConfig, config: Config, folder: Path, where: Where, give_way: GiveWay | None
) -> Session:
    device = torch.device(where.device)
    benchmark = make_benchmark(config, run.seed, device, where.data_dir, run.content)
    about = {"label": run.label, "seed": run.seed, "tasks": benchmark.n_tasks}
    append_event(
        folder, "run_started", **about, config=run.resolved, computed_with=computed_with(device)
    )
    bank = AdapterFolder(folder / ADAPTERS, device, run.run_hash)
    method = make_method(config, benchmark, bank, device, where.data_dir, run.content)
    return Session(config, benchmark, method, folder, run.run_hash, give_way, where.until)


def _whereabouts(session: Session | None) -> tuple[int | None, int | None]:
    """The task and the step at which a run stands."""
    if session is None:
        return None, None
    fit = session.state.fit
    return session.state.place.task, fit.progress.step if fit else None


def record_lost_run(run: RunConfig, where: Where, message: str, force: bool = False) -> Outcome:
    """Writes the record of a run whose process is gone; its checkpoint stays.

    Unless that process was done with it, or another one has the run folder by now.
    """
    place = RunFolder(where.results, run)
    try:
        place.make()
        with held(place.path):
            status = place.finished() if not force or not place.anew.exists() else None
            if status:
                return Outcome(status)
            _record_lost(run, place.anew if force else place.path, message)
    except Timeout:
        return locked(place)
    except (LoraClError, OSError) as error:
        message = f"{message}; no record could be written: {one_line(error)}"
    return Outcome("failed", message)


def _record_lost(run: RunConfig, folder: Path, message: str) -> None:
    error = {"kind": "WorkerLost", "message": message, "task": None, "step": None}
    for event, _ in read_events(folder):
        error |= {key: event[key] for key in ("task", "step") if isinstance(event.get(key), int)}
    record = {
        **identity(run, run.parse(), "failed"),
        **measured(None, None),
        "probe": None,
        "error": error,
        "provenance": {"versions": versions(), "threads": run.resolved["threads"]},
    }
    write_result(folder, record)
    append_event(folder, "done", status="failed")
