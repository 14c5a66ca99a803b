"""What lies in a run folder, and what of it is ours."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from lora_cl.errors import ResultsError
from lora_cl.records.events import EVENTS
from lora_cl.records.files import (
    TEMPORARY,
    remove_files,
    remove_if_empty,
    require_file,
    require_folder,
)
from lora_cl.records.folders import CONFIG
from lora_cl.records.results import BANK, RESULT

MODEL = "model.safetensors"
TRACEBACK = "traceback.txt"
LOCK, HOLDER = ".lock", ".holder"
"""While a run is done: what is locked, and who has it."""
ADAPTERS, CHECKPOINT = "adapters", "checkpoint"

OURS = (RESULT, CONFIG, EVENTS, TRACEBACK, MODEL, ADAPTERS, CHECKPOINT)
"""What a run writes, the record first: it is what says that the others are whole."""

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
SEALED = (ADAPTER, ADAPTER_CONFIG)
"""What lies in the folder of a sealed task; the second for PEFT alone."""

FILES = (RESULT, CONFIG, EVENTS, TRACEBACK, MODEL)
"""Those of ``OURS`` that are files."""

_TASK = re.compile(r"task-([0-9]{3,})")
_CHECKPOINT = re.compile(r"([0-9]{8,})\.safetensors")


def anew(folder: Path) -> Path:
    """Beside a run folder: where the run is done again, until its result is whole."""
    return folder.with_name(f".{folder.name}.anew")


def task_folder(task_id: int) -> str:
    return f"task-{task_id:03d}"


def task_of(name: str) -> int | None:
    """The task that a folder in ``adapters`` is of; None for a name that no run gives."""
    match = _TASK.fullmatch(name)
    return int(match[1]) if match and task_folder(int(match[1])) == name else None


def checkpoint_file(number: int) -> str:
    return f"{number:08d}.safetensors"


def checkpoint_of(name: str) -> int | None:
    """The number of a file in ``checkpoint``; None for a name that no run gives."""
    match = _CHECKPOINT.fullmatch(name)
    return int(match[1]) if match and checkpoint_file(int(match[1])) == name else None


def tasks_in(adapters: Path) -> list[int]:
    """The tasks that have a folder, sorted; it may be empty."""
    return sorted(task for name in _names(adapters) if (task := task_of(name)) is not None)


def checkpoints_in(folder: Path) -> list[int]:
    """The numbers of the checkpoints, the oldest first."""
    numbers = [n for name in _names(folder) if (n := checkpoint_of(name)) is not None]
    return sorted(n for n in numbers if not (folder / checkpoint_file(n)).is_dir())


def temporaries(folder: Path) -> Iterator[Path]:
    """What writers that were killed left half written in a run folder; no link is followed."""
    for place, is_ours in _places(folder):
        for name in _names(place):
            match = TEMPORARY.fullmatch(name)
            if match and is_ours(match["name"]):
                yield place / name


def strangers(folder: Path) -> Iterator[Path]:
    """What lies among the adapters and checkpoints of a run folder and is not of a run."""
    half_written = set(temporaries(folder))
    for place, is_ours in _places(folder)[1:]:
        for name in _names(place):
            if not is_ours(name) and place / name not in half_written:
                yield place / name


def _places(folder: Path) -> list[tuple[Path, Callable[[str], bool]]]:
    """The folders of a run, its own first, and what in each is ours by its name."""
    places: list[tuple[Path, Callable[[str], bool]]] = [(folder, FILES.__contains__)]
    if not (folder / CHECKPOINT).is_symlink():
        places.append((folder / CHECKPOINT, lambda name: checkpoint_of(name) is not None))
    if not (folder / ADAPTERS).is_symlink():
        places.append((folder / ADAPTERS, lambda name: task_of(name) is not None))
        tasks = (folder / ADAPTERS / task_folder(task) for task in tasks_in(folder / ADAPTERS))
        places += [(place, SEALED.__contains__) for place in tasks if not place.is_symlink()]
    return places


def require_plain(folder: Path) -> None:
    """Raises ResultsError if one of what a run writes in ``folder`` is a link or of another kind.

    Files are files there, and folders folders.
    """
    for name in (*FILES, LOCK, HOLDER):
        require_file(folder / name)
    for place in (folder, folder / CHECKPOINT, folder / ADAPTERS):
        require_folder(place)
    for task_id in tasks_in(folder / ADAPTERS):
        require_folder(folder / ADAPTERS / task_folder(task_id))


def remove_ours(folder: Path) -> None:
    """Removes what runs write in a run folder, the record first; everything else stays."""
    remove_files(folder, FILES)
    remove_temporaries(folder)
    adapters = folder / ADAPTERS
    if require_folder(adapters):
        for task_id in tasks_in(adapters):
            remove_sealed(adapters / task_folder(task_id))
        remove_if_empty(adapters)
    remove_checkpoints(folder / CHECKPOINT)


def remove_sealed(task: Path) -> None:
    """Removes a sealed task, and its folder unless something else lies there."""
    remove_files(task, SEALED)
    remove_if_empty(task)


def remove_checkpoints(folder: Path) -> None:
    """Removes every checkpoint, and their folder unless something else lies there."""
    remove_files(folder, map(checkpoint_file, checkpoints_in(folder)))
    remove_if_empty(folder)


def remove_temporaries(folder: Path) -> None:
    """Removes ``temporaries``."""
    for path in list(temporaries(folder)):
        path.unlink(missing_ok=True)


def _names(folder: Path) -> list[str]:
    with suppress(OSError):
        return sorted(os.listdir(folder))
    return []


def require_empty(folder: Path) -> None:
    """Raises ResultsError unless ``folder`` is empty or not there, and in no run; makes nothing."""
    for around in folder.absolute().parents:
        if any((around / record).is_file() for record in (RESULT, BANK)):
            raise ResultsError(f"{folder}: lies in {around}, a run, and nothing is written there")
    try:
        if folder.exists() and any(folder.iterdir()):
            raise ResultsError(f"{folder}: is not empty; nothing is written over")
    except OSError as error:
        raise ResultsError(f"{folder}: cannot be written: {error.strerror}") from None


def make_empty(folder: Path) -> None:
    """Makes ``folder``, which may be there if it is empty; ResultsError otherwise."""
    require_empty(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultsError(f"{folder}: cannot be written: {error.strerror}") from None
