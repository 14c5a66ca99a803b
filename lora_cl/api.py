"""What the commands do, from Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cl.config import Experiment, load_config, parse_config
from lora_cl.data import path_of
from lora_cl.engines.pool import Watcher, run_all
from lora_cl.errors import ResultsError
from lora_cl.records.folders import DEFAULT_RESULTS, Record, load_records, read_record
from lora_cl.report import to_frame
from lora_cl.report.progress import Progress, RunLabel
from lora_cl.running.machine import resolve_device
from lora_cl.running.preparation import prepare
from lora_cl.running.runner import Where, load_run

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["load_config", "load_results", "load_run", "parse_config", "run"]


def run(
    experiments: Experiment | Sequence[Experiment],
    *,
    results: str | Path = DEFAULT_RESULTS,
    jobs: int | None = None,
    device: str = "auto",
    data_dir: str | Path | None = None,
    force: bool = False,
    progress: bool = True,
    say: Callable[[str], None] = lambda message: None,
) -> list[Record]:
    """Does every run of the experiments that is not done, and returns all their records.

    ``jobs`` processes work side by side, by default one a core; 0 works in this process.
    Raises ConfigError or DataError, and then nothing was started; a run that fails is recorded.
    """
    experiments = [experiments] if isinstance(experiments, Experiment) else experiments
    jobs = (os.cpu_count() or 1) if jobs is None else jobs
    data_dir = None if data_dir is None else Path(data_dir)
    where = Where(path_of("--results", results), str(resolve_device(device)), data_dir)
    runs = [one for experiment in experiments for one in prepare(experiment, data_dir, say)]
    _writable(where.results)
    labels = [
        RunLabel(one.experiment, one.label, one.seed, where.results / one.folder) for one in runs
    ]
    if progress:
        with Progress(labels) as watcher:
            run_all(runs, where, jobs, watcher, force)
    else:
        run_all(runs, where, jobs, _Silence(), force)
    return [read_record(where.results / one.folder) for one in runs]


def load_results(*paths: str | Path) -> pd.DataFrame:
    """A tidy table of all runs below ``paths``: a row a run, its identity, metrics and cost."""
    folders = [path_of("results", path) for path in paths or [DEFAULT_RESULTS]]
    return to_frame(load_records(folders))


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
