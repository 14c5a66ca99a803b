"""A run's folder: what in it is ours, whether it holds the run already, how results are replaced.

Nothing is written or deleted through a link, and of what lies in a run folder only what a run
writes itself is ever removed.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_cl.config import RunConfig
from lora_cl.errors import LoraClError, ResultsError
from lora_cl.records.events import EVENTS
from lora_cl.records.files import make_within, sync_directory, write_atomic
from lora_cl.records.folders import CONFIG
from lora_cl.records.integrity import first_fault
from lora_cl.records.layout import (
    ADAPTERS,
    CHECKPOINT,
    MODEL,
    OURS,
    anew,
    remove_checkpoints,
    remove_ours,
    remove_temporaries,
    require_plain,
    strangers,
)
from lora_cl.records.results import RESULT, read_result, write_result

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
        return anew(self.path)

    @property
    def latest(self) -> Path:
        """Where the last attempt at the run is: beside it, if it came to no whole result."""
        return self.anew if self.anew.exists() else self.path

    def make(self) -> None:
        """Makes the folder. Raises ResultsError if a link, or what no run writes, is in the way."""
        make_within(self.results, *self.run.folder.parts)
        for place in (self.path, self.anew):
            require_plain(place)

    def finished(self) -> str | None:
        """The status of the run if it is finished here; a replacement that is whole moves in.

        Raises OccupiedError if the folder holds another run whose hash begins as this one's.
        """
        if _status(_record(self.anew, self.run)) in FINISHED:
            self.replace()
        record = _record(self.path, self.run)
        status = _status(record)
        if status in FINISHED and not self._lacks(record):
            remove_temporaries(self.path)
            remove_checkpoints(self.path / CHECKPOINT)
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
        record = _record(self.path, self.run)
        whole = _status(record) in FINISHED and not self._lacks(record)
        if whole or _status(_record(self.anew, self.run)) in FINISHED or self._twin():
            return REUSED
        begun = any((self.path / CHECKPOINT).glob("*.safetensors"))
        return RESUMED if begun else TO_DO

    def replace(self) -> None:
        """Puts what was made anew in the place of what was there; interrupted, it goes on."""
        (self.path / RESULT).unlink(missing_ok=True)
        for stranger in strangers(self.path):
            target = self.anew / stranger.relative_to(self.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            stranger.replace(target)
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
        _copy(twin, self.path)
        write_atomic(self.path / CONFIG, self.run.to_yaml().encode())
        write_result(self.path, renamed(record, self.run))
        return "done"

    def _lacks(self, record: dict[str, Any] | None) -> bool:
        """Whether files are gone that the record of a run that is done speaks of."""
        return _status(record) == "done" and bool(first_fault(self.path, record or {}))

    def _twin(self) -> Path | None:
        """The folder of the same run, finished under another name."""
        for twin in sorted(self.results.glob(f"*/*/{self.run.folder_name}")):
            record = _record(twin, self.run) if twin != self.path and _is_plain(twin) else None
            if record and _status(record) == "done" and not first_fault(twin, record):
                return twin
        return None


class OccupiedError(LoraClError):
    """A run folder holds another run, which nobody wants to lose."""


def _copy(twin: Path, folder: Path) -> None:
    """Copies what a run that is done has written, but for its record and config."""
    others = set(strangers(twin))

    def ours_alone(place: str, names: list[str]) -> list[str]:
        return [name for name in names if Path(place, name) in others]

    for name in (EVENTS, MODEL):
        if (twin / name).exists():
            shutil.copy2(twin / name, folder / name)
    if (twin / ADAPTERS).is_dir():
        shutil.copytree(twin / ADAPTERS, folder / ADAPTERS, ignore=ours_alone, dirs_exist_ok=True)


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


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_plain(folder: Path) -> bool:
    with suppress(ResultsError):
        require_plain(folder)
        return True
    return False


def _record(folder: Path, run: RunConfig) -> dict[str, Any] | None:
    """The record of ``run`` in ``folder``; None where there is no readable one of it."""
    with suppress(ResultsError):
        result = read_result(folder)
        if result is not None and result.get("hash") == run.run_hash:
            return result
    return None


def _status(record: dict[str, Any] | None) -> str | None:
    return None if record is None else str(record.get("status"))
