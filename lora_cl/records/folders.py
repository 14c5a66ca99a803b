"""Run folders: found below a directory, and read without trusting them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_cl.errors import ResultsError
from lora_cl.files import open_regular
from lora_cl.records.events import EVENTS, EventLog
from lora_cl.records.plain_json import LARGEST
from lora_cl.records.results import RESULT, RUN_FOLDER, read_own_result
from lora_cl.text import one_line

CONFIG = "config.yaml"
DEFAULT_RESULTS = Path("results") / "runs"

Notice = Callable[[str], None]
"""Hears, a line each, of the places that were not looked into."""


@dataclass(frozen=True)
class Record:
    """What one run folder says. ``status`` is that of the result, or unfinished, or unreadable."""

    folder: Path
    experiment: str
    label: str
    method: str
    scenario: str
    benchmark: str
    seed: int
    status: str
    result: dict[str, Any]


def unheard(line: str) -> None:
    """A ``Notice`` that nobody hears."""


def run_folders(paths: Sequence[Path], notice: Notice = unheard) -> list[Path]:
    """Every run folder at or below ``paths``, sorted; see ``is_run``.

    Folders whose names begin with a dot are passed over, and links below ``paths`` not followed.
    Raises ResultsError for a missing path.
    """
    walk = _Walk(notice)
    for path in paths:
        if not path.is_dir():
            what = "is not a directory" if path.exists() else "does not exist"
            raise ResultsError(f"{path}: {what}; give a results directory or a run folder")
        walk.below(path)
    walk.tell_of_links()
    return sorted(walk.found)


class _Walk:
    def __init__(self, notice: Notice) -> None:
        self._notice = notice
        self.found: set[Path] = set()
        self.seen: set[tuple[int, int]] = set()
        self.links: list[Path] = []

    def notice(self, line: str) -> None:
        self._notice(one_line(line, 2000))

    def below(self, path: Path) -> None:
        waiting = [path]
        while waiting:
            folder = waiting.pop()
            try:
                with os.scandir(folder) as entries:
                    inside = {entry.name: entry for entry in entries}
                self.seen.add(_identity(folder))
            except OSError as error:
                self.notice(f"{folder}: cannot be listed: {error.strerror}")
                continue
            if _is_run(folder, inside):
                self.found.add(folder)
                continue
            for name, entry in inside.items():
                if name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(folder / name)
                elif entry.is_symlink() and entry.is_dir():
                    self.links.append(folder / name)

    def tell_of_links(self) -> None:
        """Of those to folders that were not seen on their own way."""
        for link in sorted(self.links):
            target = link.resolve()
            if not any(_identity(place) in self.seen for place in (target, *target.parents)):
                self.notice(f"{link}: is a link and not followed; name it to have it looked into")


def _identity(folder: Path) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


def is_run(folder: Path) -> bool:
    """Whether ``folder`` is that of a run.

    It is called as one, seed<k>-<hash>, and holds a file that is called as one of a run; or it
    holds a record of ours, however damaged, or a config beside an event log of ours.
    """
    return folder.is_dir() and _is_run(folder, os.listdir(folder))


def _is_run(folder: Path, names: Iterable[str]) -> bool:
    inside = {CONFIG, RESULT, EVENTS}.intersection(names)
    if inside and RUN_FOLDER.fullmatch(folder.resolve().name):
        return True
    if RESULT in inside and _begins_as_record(folder / RESULT):
        return True
    if {CONFIG, EVENTS} <= inside:
        first = next(EventLog(folder).new(), None)
        return first is not None and first["event"] == "run_started"
    return False


def _begins_as_record(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            head = file.read(4096)
    except OSError:
        return False
    return b'"schema_version"' in head and b'"status"' in head


def load_records(paths: Sequence[Path], notice: Notice = unheard) -> list[Record]:
    """The records of every run folder at or below ``paths``; none is trusted to be whole."""
    return [read_record(folder) for folder in run_folders(paths, notice)]


def read_record(folder: Path) -> Record:
    """What ``folder`` says, whatever state it is in."""
    try:
        result = read_own_result(folder)
        status = "unfinished" if result is None else str(result.get("status"))
    except ResultsError as error:
        result, status = {"error": {"kind": "unreadable", "message": str(error)}}, "unreadable"
    result = result or {}
    place = folder.resolve()
    seed = result.get("seed", place.name.removeprefix("seed").partition("-")[0])

    def word(key: str, otherwise: str) -> str:
        value = result.get(key, otherwise)
        return value if isinstance(value, str) else otherwise

    return Record(
        folder=folder,
        experiment=word("experiment", place.parent.parent.name),
        label=word("label", place.parent.name),
        method=word("method", ""),
        scenario=word("scenario", ""),
        benchmark=word("benchmark", ""),
        seed=_seed(seed),
        status=status,
        result=result,
    )


def _seed(value: Any) -> int:
    """-1 for what is none."""
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    return value if type(value) is int and 0 <= value <= LARGEST else -1
