"""What the commands do, from Python."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cl.config import Experiment, load_config, parse_config
from lora_cl.engines.pool import Watcher, run_all
from lora_cl.errors import ResultsError
from lora_cl.records.folders import DEFAULT_RESULTS, Record, load_records, read_record
from lora_cl.report import matching_labels, to_frame
from lora_cl.report.progress import Progress, RunLabel
from lora_cl.running.folder import TO_DO, RunFolder
from lora_cl.running.loading import load_run
from lora_cl.running.machine import resolve_device
from lora_cl.running.planning import Planned, summary
from lora_cl.running.preparation import Say, prepare
from lora_cl.running.runner import Where

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["load_config", "load_results", "load_run", "parse_config", "plan", "run"]


def run(
    experiments: Experiment | Sequence[Experiment],
    *,
    results: str | Path = DEFAULT_RESULTS,
    jobs: int | None = None,
    device: str = "auto",
    data_dir: str | Path | None = None,
    force: bool = False,
    only: Sequence[str] = (),
    progress: bool = True,
    say: Say = lambda message: None,
) -> list[Record]:
    """Does every run of the experiments that is not done, and returns all their records.

    ``only`` are labels, or patterns such as ``ewc*``, of the methods to run; without any, all are.
    ``say`` hears at the start how many runs there are, and how many of them are done already.

    ``jobs`` processes work side by side, by default one a core; 0 works in this process.
    Raises ConfigError or DataError, and then nothing was started; a run that fails is recorded.
    """
    jobs = (os.cpu_count() or 1) if jobs is None else jobs
    planned = plan(
        experiments,
        results=results,
        device=device,
        data_dir=data_dir,
        force=force,
        only=only,
        say=say,
    )
    where = Where(
        Path(results), str(resolve_device(device)), None if data_dir is None else Path(data_dir)
    )
    _writable(where.results)
    say(summary(planned))
    runs, folders = [one.run for one in planned], [one.folder for one in planned]
    labels = [
        RunLabel(run.experiment, run.label, run.seed, folder.anew if force else folder.path)
        for run, folder in zip(runs, folders, strict=True)
    ]
    if progress:
        with Progress(labels) as watcher:
            run_all(runs, where, jobs, watcher, force)
    else:
        run_all(runs, where, jobs, _Silence(), force)
    return [read_record(folder.latest) for folder in folders]


def plan(
    experiments: Experiment | Sequence[Experiment],
    *,
    results: str | Path = DEFAULT_RESULTS,
    device: str = "auto",
    data_dir: str | Path | None = None,
    force: bool = False,
    only: Sequence[str] = (),
    say: Say = lambda message: None,
) -> list[Planned]:
    """The runs that ``run`` would do, and whether each is there already; trains nothing.

    Data sets that are missing are fetched: what is in them is part of what a run is.
    """
    experiments = [experiments] if isinstance(experiments, Experiment) else experiments
    labels = dict.fromkeys(label for one in experiments for label in one.config.methods)
    chosen = matching_labels("--only", only, list(labels)) if only else labels
    data_dir = None if data_dir is None else Path(data_dir)
    kind = str(resolve_device(device))
    runs = [
        run
        for experiment in experiments
        for run in prepare(experiment, data_dir, say, kind)
        if run.label in chosen
    ]
    folders = [RunFolder(Path(results), run) for run in runs]
    return [
        Planned(run, folder, TO_DO if force else folder.outlook())
        for run, folder in zip(runs, folders, strict=True)
    ]


def load_results(*paths: str | Path) -> pd.DataFrame:
    """A tidy table of all runs below ``paths``: a row a run, its identity, metrics and cost."""
    return to_frame(load_records([Path(path) for path in paths or [DEFAULT_RESULTS]]))


class _Silence(Watcher):
    def poll(self) -> None:
        pass

    def finished(self, index: int, status: str, message: str | None) -> None:
        pass


def _writable(folder: Path) -> None:
    """Raises ResultsError unless files can be made in ``folder``, which is made if missing."""
    probe = folder / f".writable-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ResultsError(f"{folder}: cannot be written to: {error.strerror}") from None
