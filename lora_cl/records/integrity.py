"""Whether run folders are whole: what in them is missing, damaged, foreign or left over."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_cl.errors import ResultsError
from lora_cl.files import read_regular
from lora_cl.records.confusion import confusion
from lora_cl.records.events import logged_config
from lora_cl.records.files import require_file, require_folder
from lora_cl.records.folders import CONFIG, run_folders
from lora_cl.records.layout import (
    ADAPTER,
    ADAPTER_CONFIG,
    ADAPTERS,
    CHECKPOINT,
    FILES,
    HOLDER,
    LOCK,
    MODEL,
    anew,
    checkpoint_file,
    checkpoints_in,
    task_folder,
    task_of,
    tasks_in,
    temporaries,
)
from lora_cl.records.results import RESULT, RUN_FOLDER, read_own_result
from lora_cl.records.tensor_files import (
    Header,
    read_header,
    require_config,
    require_owner,
    verified,
)
from lora_cl.text import one_line

MAX_CONFIG = 65_536
"""Bytes of a config, as where configs are read."""

ConfigText = Callable[[dict[str, Any]], str]
"""The text of ``config.yaml`` for a config."""

_SEALED = re.compile(f"{ADAPTERS}/(?P<folder>[^/]+)/{re.escape(ADAPTER)}")


def fsck(paths: Sequence[Path], config_text: ConfigText, say: Callable[[str], None]) -> bool:
    """Whether every run at or below ``paths`` is whole; ``say`` hears of each fault, and the sum.

    Reads only. Raises ResultsError if there are no runs.
    """
    unseen = bad = count = 0

    def notice(line: str) -> None:
        nonlocal unseen
        unseen += 1
        say(line)

    folders = run_folders(paths, notice)
    if not folders:
        raise ResultsError(f"no runs in {', '.join(map(str, paths))}")
    for folder in folders:
        found = list(faults(folder, config_text))
        for fault in found:
            say(one_line(fault, 2000))
        bad, count = bad + bool(found), count + len(found)
    runs = _counted(len(folders), "run")
    said = f"{runs}: {_counted(count, 'fault')} in {bad} of them" if bad else f"{runs}: all whole"
    if unseen:
        said += f"; {_counted(unseen, 'place')} {'was' if unseen == 1 else 'were'} not looked into"
    say(said)
    return not bad and not unseen


def manifest(folder: Path) -> dict[str, str]:
    """For the record of a run that is done: the checksum of each of its tensor files, by path.

    Raises ResultsError if one is missing or cut off; looks at their headers alone.
    """
    sealed = [_sealed(task_id) for task_id in tasks_in(folder / ADAPTERS)]
    names = [MODEL, *(name for name in sealed if (folder / name).exists())]
    return {name: read_header(folder / name).checksum for name in names}


def first_fault(folder: Path, result: Mapping[str, Any]) -> str | None:
    """What keeps a run that is done, as ``result`` says, from being used; None if nothing does.

    Every file must be there with the size, owner and checksum that its header and the record
    state; no tensor is read. For a thousand tasks this takes some tenths of a second.
    """
    return next(_of_done(folder, result, read_header), None)


def faults(folder: Path, config_text: ConfigText) -> Iterator[str]:
    """All that is wrong in a run folder, a line each; every checksum is checked. Reads only."""
    result: dict[str, Any] | None = None
    status = "unreadable"
    try:
        result = read_own_result(folder)
        status = "unfinished" if result is None else str(result.get("status"))
    except ResultsError as error:
        yield str(error)
    yield from _of_other_kind(folder)
    yield from _of_config(folder, result, config_text)
    if result is not None and status == "done":
        yield from _of_confusion(folder, result)
        yield from _of_done(folder, result, verified)
        yield from _of_peft(folder)
    else:
        yield from _of_others(folder, result)
    if status in ("done", "diverged"):
        yield from _left_over(folder, result or {})


def _of_other_kind(folder: Path) -> Iterator[str]:
    checks = [(require_file, name) for name in (*FILES, LOCK, HOLDER) if name != RESULT]
    for check, name in [*checks, (require_folder, ADAPTERS), (require_folder, CHECKPOINT)]:
        try:
            check(folder / name)
        except ResultsError as error:
            yield str(error).partition(";")[0]


def _of_config(folder: Path, result: dict[str, Any] | None, text: ConfigText) -> Iterator[str]:
    """The config for people and for `run`; the record, or else the log, holds the same."""
    path = folder / CONFIG
    config = (logged_config(folder) or None) if result is None else result.get("config")
    try:
        content = read_regular(path, MAX_CONFIG)
    except FileNotFoundError:
        yield f"{path}: is missing"
    except OSError as error:
        yield f"{path}: cannot be read: {error.strerror}"
    else:
        if isinstance(config, dict) and content != text(config).encode():
            yield f"{path}: is damaged: it is not the config of the run"


def _of_confusion(folder: Path, result: Mapping[str, Any]) -> Iterator[str]:
    """What the classes were taken for has to give the accuracies on record."""
    try:
        confusion(result)
    except ValueError as error:
        yield f"{folder / RESULT}: {one_line(error)}"


def _of_done(
    folder: Path, result: Mapping[str, Any], examine: Callable[[Path], Header]
) -> Iterator[str]:
    """Of the files that answer for the tasks, as the record names them.

    A record of an older version does not; there the model says which tasks are sealed.
    """
    run, stated = str(result.get("hash")), result.get("files")
    stated = stated if isinstance(stated, dict) else {}
    names = [name for name in stated if name != MODEL]
    try:
        model = _owned(folder / MODEL, run, examine, stated.get(MODEL))
        names = names or [_sealed(task_id) for task_id in _tasks(folder / MODEL, model)]
    except ResultsError as error:
        yield str(error)
    for name in names:
        match = _SEALED.fullmatch(name)
        task_id = task_of(match["folder"]) if match else None
        if task_id is None:
            yield f"{folder / RESULT}: names a file {name[:80]!r}, which no run writes"
            continue
        try:
            _owned(folder / name, run, examine, stated.get(name), task=task_id)
        except ResultsError as error:
            yield str(error)


def _of_others(folder: Path, result: Mapping[str, Any] | None) -> Iterator[str]:
    """Of the files of a run that is not done, or whose record tells nothing."""
    name = RUN_FOLDER.fullmatch(folder.resolve().name)
    run = name["hash"] if name else ""
    owners: dict[str, dict[str, int]] = {MODEL: {}}
    owners |= {_sealed(task_id): {"task": task_id} for task_id in tasks_in(folder / ADAPTERS)}
    saved = checkpoints_in(folder / CHECKPOINT)
    owners |= {f"{CHECKPOINT}/{checkpoint_file(number)}": {} for number in saved}
    for file, owner in owners.items():
        if (folder / file).exists():
            try:
                _owned(folder / file, run, verified, **owner)
            except ResultsError as error:
                if (folder / file).exists():  # A run under way takes its old files away.
                    yield str(error)


def _of_peft(folder: Path) -> Iterator[str]:
    """Of the configs beside sealed tasks, which are for PEFT alone."""
    for task_id in tasks_in(folder / ADAPTERS):
        place = folder / ADAPTERS / task_folder(task_id)
        try:
            meta = read_header(place / ADAPTER).meta
        except ResultsError:
            continue  # It was told already.
        try:
            require_config(place / ADAPTER_CONFIG, meta)
        except ResultsError as error:
            yield str(error)


def _left_over(folder: Path, result: Mapping[str, Any]) -> Iterator[str]:
    """Of what a finished run has no more use for; `run` takes most of it away."""
    if checkpoints_in(folder / CHECKPOINT):
        yield f"{folder / CHECKPOINT}: is left over"
    for path in temporaries(folder):
        yield f"{path}: is left over, half written"
    stated = result.get("files")
    for task_id in tasks_in(folder / ADAPTERS):
        if isinstance(stated, dict) and _sealed(task_id) not in stated:
            yield f"{folder / ADAPTERS / task_folder(task_id)}: is left over, by the record"
    if anew(folder).is_dir():
        yield f"{anew(folder)}: is left over from doing the run again, or that is under way"


def _owned(
    path: Path, run: str, examine: Callable[[Path], Header], stated: Any = None, **owner: int
) -> Header:
    """The header of a file of ``run``, whose hash may be cut; ``stated`` is its checksum if known.

    Raises ResultsError.
    """
    header = examine(path)
    require_owner(path, header.meta, **owner)
    if not str(header.meta.get("run")).startswith(run):
        require_owner(path, header.meta, run=run)
    if stated is not None and header.checksum != stated:
        raise ResultsError(f"{path}: is not the file that the run wrote, by its record")
    return header


def _tasks(path: Path, model: Header) -> list[int]:
    sealed = model.meta.get("sealed")
    if not isinstance(sealed, list) or not all(type(task_id) is int for task_id in sealed):
        raise ResultsError(f"{path}: is damaged: it does not say which tasks are sealed")
    return sealed


def _sealed(task_id: int) -> str:
    return f"{ADAPTERS}/{task_folder(task_id)}/{ADAPTER}"


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
