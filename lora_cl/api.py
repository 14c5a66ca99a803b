"""What the commands do, from Python."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_cl import config, tuning
from lora_cl.config import Experiment, RunConfig, parse_config
from lora_cl.data import path_of
from lora_cl.engines import pool
from lora_cl.engines.cores import jobs_for
from lora_cl.engines.engine import Engine, Watcher
from lora_cl.errors import ConfigError, OutOfTimeError, ResultsError
from lora_cl.records.files import unwritable
from lora_cl.records.folders import DEFAULT_RESULTS, Record, load_records, read_record
from lora_cl.report import matching_labels, to_frame
from lora_cl.report.progress import Progress, RunLabel
from lora_cl.running import loading
from lora_cl.running.arithmetic import reproducible
from lora_cl.running.base import uncached_bases
from lora_cl.running.folder import TO_DO, RunFolder
from lora_cl.running.machine import resolve_device
from lora_cl.running.planning import Planned, Shard, summary, titles
from lora_cl.running.preparation import Say, prepare
from lora_cl.running.runner import UNFINISHED, Where
from lora_cl.text import one_line
from lora_cl.tuning import Tuning

if TYPE_CHECKING:
    import pandas as pd

    from lora_cl.methods import Method

__all__ = ["load_config", "load_results", "load_run", "parse_config", "plan", "run", "tune"]

AnyPath = str | os.PathLike[str]


def load_config(path: AnyPath, overrides: Sequence[str] = ()) -> Experiment:
    """Reads and validates a config file; ``overrides`` are ``KEY=VALUE``, the value in YAML.

    Raises ConfigError, one line for each problem.
    """
    if isinstance(overrides, str):
        raise ConfigError(f"overrides: {_shown(overrides)} is one text; give a list of them")
    return config.load_config(path_given("path", path), overrides)


def run(
    experiments: Experiment | Sequence[Experiment],
    *,
    results: AnyPath = DEFAULT_RESULTS,
    jobs: int | None = None,
    device: str = "auto",
    data_dir: AnyPath | None = None,
    force: bool = False,
    only: Sequence[str] = (),
    shard: str | None = None,
    max_seconds: float | None = None,
    engine: str = "pool",
    address: str | None = None,
    progress: bool = True,
    verbose: bool = False,
    say: Say = lambda message: None,
) -> list[Record]:
    """Does every run of the experiments that is not done, and returns all their records.

    ``only`` are labels, or patterns such as ``ewc*``, of the methods to run; without any, all are.
    ``shard`` is ``i/n``: of these runs the i-th of n parts, which stay the same when seeds or
    methods are added. After ``max_seconds`` every run saves a checkpoint, and OutOfTimeError is
    raised if one is not done.

    With ``progress``, stderr shows how far the runs are: a live view on a terminal, else a line a
    run and, if ``verbose``, a line a task. ``say`` hears at the start what is compared, how many
    runs there are, how many of them are done already, and what else is worth a line.

    ``jobs`` processes work side by side, by default as many as fill the cores this process may use,
    with the configs' ``threads`` each; 0 works in this process, and then in one thread of it at a
    time. ``engine`` "ray" does the same runs on the Ray cluster at ``address``,
    or on one of this machine alone; ``jobs`` is then the most at a time. Raises ConfigError or
    DataError, and then nothing was started; a run that fails is recorded.
    """
    experiments = _experiments(experiments)
    do_all = _engine(engine, jobs, address, experiments)
    until = None if max_seconds is None else time.time() + max_seconds
    where = replace(_where(results, device, data_dir), until=until)
    planned = _planned(experiments, where, force, only, shard, say)
    if reason := unwritable(where.results):
        raise ResultsError(f"{where.results}: cannot be written to: {reason}")
    configs = [point.config for one in experiments for point in one.points]
    for note in dict.fromkeys(uncached_bases(one, where.data_dir) for one in configs):
        if note:
            say(note)
    for title in titles(planned):
        say(title)
    say(summary(planned))
    statuses = _do([one.run for one in planned], where, do_all, force, progress, verbose)
    if max_seconds is not None and (left := statuses.count(UNFINISHED)):
        raise OutOfTimeError(
            f"time is up: {left} of {len(planned)} runs are not done; "
            "the same command goes on from here"
        )
    return [read_record(one.folder.latest) for one in planned]


def tune(
    experiment: Experiment,
    *,
    results: AnyPath = DEFAULT_RESULTS,
    jobs: int | None = None,
    device: str = "auto",
    data_dir: AnyPath | None = None,
    only: Sequence[str] = (),
    engine: str = "pool",
    address: str | None = None,
    progress: bool = True,
    say: Say = lambda message: None,
) -> Tuning:
    """Tries values for the options of every method, as `tune` of the config says, and returns what
    came of it.

    No trial sees a test sample. Trials are runs below ``results``; those that are done are not done
    again. The other arguments are those of ``run``. Raises ConfigError or DataError, and then
    nothing was started.
    """
    (given,) = _experiments(experiment)
    alone = replace(given, swept=())
    do_all = _engine(engine, jobs, address, [alone])
    where = _where(results, device, data_dir)
    planned = _planned([alone], where, False, only, None, lambda message: None)
    if reason := unwritable(where.results):
        raise ResultsError(f"{where.results}: cannot be written to: {reason}")

    def do(runs: Sequence[RunConfig]) -> list[Path]:
        folders = [RunFolder(where.results, run) for run in runs]
        pairs = zip(runs, folders, strict=True)
        say(summary([Planned(run, folder, folder.outlook()) for run, folder in pairs]))
        _do(runs, where, do_all, False, progress)
        return [folder.path for folder in folders]

    return tuning.tune(alone, [one.run for one in planned], do)


def plan(
    experiments: Experiment | Sequence[Experiment],
    *,
    results: AnyPath = DEFAULT_RESULTS,
    device: str = "auto",
    data_dir: AnyPath | None = None,
    force: bool = False,
    only: Sequence[str] = (),
    shard: str | None = None,
    say: Say = lambda message: None,
) -> list[Planned]:
    """The runs that ``run`` would do, and whether each is there already; trains nothing.

    Data sets that are missing are fetched: what is in them is part of what a run is.
    """
    where = _where(results, device, data_dir)
    return _planned(_experiments(experiments), where, force, only, shard, say)


def load_results(*paths: AnyPath) -> pd.DataFrame:
    """A tidy table of all runs below ``paths``: a row a run, its identity, metrics and cost.

    Warns of places that were not looked into.
    """
    folders = [path_given("paths", path) for path in paths or [DEFAULT_RESULTS]]
    return to_frame(load_records(folders, lambda line: warnings.warn(line, stacklevel=5)))


def load_run(folder: AnyPath, device: str = "cpu", data_dir: AnyPath | None = None) -> Method:
    """The method of a finished run as it was at its end: ``view(k)`` answers bit for bit the same.

    Its config is the one in the record, which is checked for damage. Raises ResultsError if the
    folder does not hold a finished run.
    """
    place = str(resolve_device(_text("device", device)))
    root = None if data_dir is None else path_given("data_dir", data_dir)
    with reproducible(threads=1):
        return loading.load_run(path_given("folder", folder), place, root)


def _planned(
    experiments: Sequence[Experiment],
    where: Where,
    force: bool,
    only: Sequence[str],
    shard: str | None,
    say: Say,
) -> list[Planned]:
    part = None if shard is None else Shard.parse(_text("shard", shard))
    labels = dict.fromkeys(label for one in experiments for label in one.config.methods)
    chosen = matching_labels("--only", only, list(labels)) if only else labels
    with reproducible(threads=1):
        runs = [
            run
            for experiment in experiments
            for run in prepare(experiment, where.data_dir, say, where.device)
            if run.label in chosen and (part is None or run in part)
        ]
    folders = [RunFolder(where.results, run) for run in runs]
    return [
        Planned(run, folder, TO_DO if force else folder.outlook())
        for run, folder in zip(runs, folders, strict=True)
    ]


def _engine(
    name: str, jobs: int | None, address: str | None, experiments: Sequence[Experiment]
) -> Engine:
    if jobs is not None and (type(jobs) is not int or jobs < 0):
        raise ConfigError(f"jobs: {_shown(jobs)} is not allowed: it is a whole number from 0")
    if name == "ray":
        from lora_cl.engines import ray_cluster

        at = None if address is None else _text("address", address)
        return partial(ray_cluster.run_all, address=at, jobs=jobs)
    if name != "pool":
        raise ConfigError(f"engine: {_shown(name)} is not allowed: it is pool or ray")
    if address is not None:
        raise ConfigError("address: is of a Ray cluster, and the engine is pool; add engine ray")
    if jobs is None:
        points = [point for one in experiments for point in one.points]
        jobs = jobs_for(max((point.config.threads for point in points), default=1))
    return partial(pool.run_all, jobs=jobs)


def _do(
    runs: Sequence[RunConfig],
    where: Where,
    do_all: Engine,
    force: bool,
    progress: bool,
    verbose: bool = False,
) -> list[str]:
    """Does the runs that are not done, with a live view of them or without; their statuses."""
    folders = [RunFolder(where.results, run) for run in runs]
    labels = [
        RunLabel(run.experiment, run.label, run.seed, folder.anew if force else folder.path)
        for run, folder in zip(runs, folders, strict=True)
    ]
    if not progress:
        return do_all(runs, where, _Silence(), force)
    with Progress(labels, verbose=verbose) as watcher:
        return do_all(runs, where, watcher, force)


class _Silence(Watcher):
    def poll(self) -> None:
        pass

    def finished(self, index: int, status: str, message: str | None) -> None:
        pass

    def say(self, text: str) -> None:
        pass


def _experiments(given: Experiment | Sequence[Experiment]) -> list[Experiment]:
    several: list[Any] = list(given) if isinstance(given, list | tuple) else [given]
    for one in several:
        if not isinstance(one, Experiment):
            raise ConfigError(f"experiments: {_shown(one)} is none; load_config makes one")
    return several


def _where(results: Any, device: Any, data_dir: Any) -> Where:
    """What was given as places and device, checked."""
    root = None if data_dir is None else path_given("data_dir", data_dir)
    return Where(path_given("results", results), str(resolve_device(_text("device", device))), root)


def path_given(name: str, given: Any) -> Path:
    if not isinstance(given, str | os.PathLike) or isinstance(os.fspath(given), bytes):
        raise ConfigError(f"{name}: {_shown(given)} is neither text nor a path")
    return path_of(name, Path(given) if str(given) else "")


def _text(name: str, given: Any) -> str:
    if not isinstance(given, str):
        raise ConfigError(f"{name}: {_shown(given)} is not text")
    return given


def _shown(value: Any) -> str:
    return one_line(repr(value), 60)
