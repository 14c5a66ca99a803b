"""A run's folder: what in it is ours, whether it holds the run already, how results are replaced.

Nothing is written or deleted through a link, and of what lies in a run folder only what a run
writes itself is ever removed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_cl.config import RunConfig
from lora_cl.errors import LoraClError, ResultsError
from lora_cl.records.events import EVENTS
from lora_cl.records.files import remove_temporaries, sync_directory, write_atomic
from lora_cl.records.folders import CONFIG
from lora_cl.records.results import RESULT, read_result, write_result
from lora_cl.running.session import MODEL

LOCK = ".lock"
TRACEBACK = "traceback.txt"
ADAPTERS, CHECKPOINT = "adapters", "checkpoint"
OURS = (RESULT, CONFIG, EVENTS, TRACEBACK, MODEL, ADAPTERS, CHECKPOINT)
"""What a run writes, the record first: it is what says that the others are whole."""

REUSED, RESUMED, TO_DO = "reused", "resumed", "to do"

FINISHED = ("done", "diverged")
"""Statuses that doing the run again would not change."""


@dataclass(frozen=True)
class RunFolder:
    """Where a run's result belongs, and where it is made when it is to replace one."""

    results: Path
    run: RunConfig

    @property
    def path(self) -> Path:
        return self.results / self.run.folder

    @property
    def anew(self) -> Path:
        """Beside it: where the run is done again, until its result is whole."""
        return self.path.with_name(f".{self.path.name}.anew")

    @property
    def latest(self) -> Path:
        """Where the last attempt at the run is: beside it, if it came to no whole result."""
        return self.anew if self.anew.exists() else self.path

    def make(self) -> None:
        """Makes the folder. Raises ResultsError if a link leads out of the results directory."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not self.path.resolve().is_relative_to(self.results.resolve()):
            raise ResultsError(
                f"{self.path}: leads out of {self.results}; nothing is written there"
            )
        for place in (self.path, self.anew):
            if link := next(_links(place), None):
                raise ResultsError(f"{link}: is a link, which no run writes; nothing is changed")

    def finished(self) -> str | None:
        """The status of the run if it is finished here; a replacement that is whole moves in.

        Raises OccupiedError if the folder holds another run whose hash begins as this one's.
        """
        if _recorded(self.anew, self.run) in FINISHED:
            self.replace()
        status = _status(self.path, self.run)
        if status in FINISHED:
            if self.anew.exists():  # Done again, and cut off.
                shutil.rmtree(self.anew)
            return status
        with suppress(ResultsError):
            other = str((read_result(self.path) or {}).get("hash"))
            if other[:8] == self.run.run_hash[:8] and other != self.run.run_hash:
                raise OccupiedError(
                    f"{self.path}: holds another run, {other[:16]} and not "
                    f"{self.run.run_hash[:16]}, whose folders have one name; move it away"
                )
        return None

    def outlook(self) -> str:
        """What doing the run would be now: reused, resumed or to do. Changes nothing."""
        here = _recorded(self.anew, self.run), _status(self.path, self.run)
        if any(status in FINISHED for status in here) or self._twin():
            return REUSED
        begun = any((self.path / CHECKPOINT).glob("*.safetensors"))
        return RESUMED if begun else TO_DO

    def replace(self) -> None:
        """Puts what was made anew in the place of what was there; interrupted, it goes on."""
        (self.path / RESULT).unlink(missing_ok=True)
        for name in (*OURS[1:], RESULT):  # The record last: with it everything is there.
            if (self.anew / name).exists():
                remove(self.path / name)
                (self.anew / name).replace(self.path / name)
        sync_directory(self.path)
        shutil.rmtree(self.anew, ignore_errors=True)

    def begin_anew(self) -> Path:
        """An empty folder to do the run again in."""
        if self.anew.exists():
            shutil.rmtree(self.anew)
        self.anew.mkdir()
        return self.anew

    def adopted(self) -> str | None:
        """Copies the same run, finished under another name, if there is one below ``results``."""
        twin = self._twin()
        if twin is None:
            return None
        record = read_result(twin)
        assert record is not None
        remove_ours(self.path)
        for name in OURS[1:]:
            source = twin / name
            if source.is_dir():
                shutil.copytree(source, self.path / name)
            elif source.is_file():
                shutil.copy2(source, self.path / name)
        write_atomic(self.path / CONFIG, self.run.to_yaml().encode())
        write_result(self.path, renamed(record, self.run))
        return "done"

    def _twin(self) -> Path | None:
        """The folder of the same run, finished under another name."""
        for twin in sorted(self.results.glob(f"*/*/{self.run.folder_name}")):
            if twin == self.path or next(_links(twin), None) or twin.is_symlink():
                continue
            if _status(twin, self.run) == "done" and _is_whole(twin):
                return twin
        return None


class OccupiedError(LoraClError):
    """A run folder holds another run, which nobody wants to lose."""


def renamed(record: dict[str, Any], run: RunConfig) -> dict[str, Any]:
    """The record of the same run under the names that ``run`` has."""
    names = {
        "experiment": run.experiment,
        "label": run.label,
        "position": run.position,
        "config": run.resolved,
    }
    source = f"{record.get('experiment')}/{record.get('label')}"
    provenance = {**record["provenance"], "copied_from": source}
    return {**record, **names, "provenance": provenance}


def remove_ours(folder: Path) -> None:
    """Removes what runs write in a run folder, the record first; everything else stays."""
    for name in OURS:
        remove(folder / name)
    remove_temporaries(folder)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _status(folder: Path, run: RunConfig) -> str | None:
    """As ``_recorded``; None for a run that is done and whose files are gone."""
    status = _recorded(folder, run)
    return None if status == "done" and not _is_whole(folder) else status


def _recorded(folder: Path, run: RunConfig) -> str | None:
    """The status on record of ``run`` in ``folder``; None without a readable record of it."""
    with suppress(ResultsError):
        result = read_result(folder)
        if result is not None and result.get("hash") == run.run_hash:
            return str(result.get("status"))
    return None


def _is_whole(folder: Path) -> bool:
    return (folder / MODEL).is_file()


def _links(folder: Path) -> Iterator[Path]:
    """Links among what runs write, which writes them as plain files and folders."""
    if folder.is_symlink():
        yield folder
    for name in (*OURS, LOCK):
        path = folder / name
        if path.is_symlink():
            yield path
        elif path.is_dir():
            for place, folders, files in os.walk(path):
                yield from (p for n in (*folders, *files) if (p := Path(place, n)).is_symlink())
