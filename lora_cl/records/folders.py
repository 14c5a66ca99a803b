"""Run folders: found below a directory, and read without trusting them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_cl.errors import ResultsError
from lora_cl.records.results import RESULT, read_result

CONFIG = "config.yaml"
DEFAULT_RESULTS = Path("results") / "runs"


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


def run_folders(paths: Sequence[Path]) -> list[Path]:
    """Every run folder at or below ``paths``, sorted. Raises ResultsError for a missing path."""
    found: set[Path] = set()
    for path in paths:
        if not path.is_dir():
            what = "is not a directory" if path.exists() else "does not exist"
            raise ResultsError(f"{path}: {what}; give a results directory or a run folder")
        found.update(_walk(path))
    return sorted(found)


def _walk(folder: Path) -> Iterator[Path]:
    for place, names, files in os.walk(folder):
        names.sort()
        if CONFIG in files or RESULT in files:
            names.clear()
            yield Path(place)


def load_records(paths: Sequence[Path]) -> list[Record]:
    """The records of every run folder at or below ``paths``; none is trusted to be whole."""
    return [read_record(folder) for folder in run_folders(paths)]


def read_record(folder: Path) -> Record:
    """What ``folder`` says, whatever state it is in."""
    try:
        result = read_result(folder)
        status = "unfinished" if result is None else str(result.get("status"))
    except ResultsError as error:
        result, status = {"error": {"kind": "unreadable", "message": str(error)}}, "unreadable"
    result = result or {}
    seed_text = folder.name.removeprefix("seed").partition("-")[0]
    seed = result.get("seed", int(seed_text) if seed_text.isdecimal() else -1)

    def word(key: str, otherwise: str) -> str:
        value = result.get(key, otherwise)
        return value if isinstance(value, str) else otherwise

    return Record(
        folder=folder,
        experiment=word("experiment", folder.parent.parent.name),
        label=word("label", folder.parent.name),
        method=word("method", ""),
        scenario=word("scenario", ""),
        benchmark=word("benchmark", ""),
        seed=seed if isinstance(seed, int) and not isinstance(seed, bool) else -1,
        status=status,
        result=result,
    )
