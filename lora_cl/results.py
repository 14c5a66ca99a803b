"""Run folders: written so that a reader never sees half a file, read without trusting them."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lora_cl.errors import ResultsError

SCHEMA_VERSION = 1
CONFIG, RESULT, EVENTS = "config.yaml", "result.json", "events.jsonl"
CHECKSUM = "checksum"
DEFAULT_RESULTS = Path("results") / "runs"


def write_atomic(path: Path, content: bytes | Iterable[bytes | memoryview]) -> None:
    """Puts ``content`` at ``path`` so that a reader, or a crash, sees the old file or the new one.

    What is large may come in pieces. Temporary file in the same directory, fsync, rename, fsync
    of the directory. Raises OSError, and then the old file is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            for piece in [content] if isinstance(content, bytes) else content:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(folder: Path) -> None:
    """Makes the names in ``folder`` durable, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_json(value: Any) -> bytes:
    return b"".join(_json_pieces(value))


def _json_pieces(value: Any) -> Iterator[bytes]:
    """As pieces of some megabytes, because the text of a thousand tasks' matrix is long."""
    parts = json.JSONEncoder(indent=1, allow_nan=False, ensure_ascii=False).iterencode(value)
    while piece := "".join(islice(parts, 200_000)):
        yield piece.encode()
    yield b"\n"


def write_result(folder: Path, record: dict[str, Any]) -> None:
    """Puts the record of a run, with a checksum of it, in its folder."""
    plain = json.loads(json.dumps(record, allow_nan=False))
    write_atomic(folder / RESULT, _json_pieces({**plain, CHECKSUM: _checksum(plain)}))


def _checksum(record: dict[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def remove_temporaries(folder: Path) -> None:
    """Removes what writers that were killed left half written in a run folder."""
    for path in folder.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


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


def append_event(folder: Path, event: str, **fields: Any) -> None:
    """Adds a line to the run's event log; one that a crash tore before stays a line of its own."""
    line = json.dumps({"time": time.time(), "event": event, **fields})
    with (folder / EVENTS).open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else f"\n{line}"
        file.write(line.encode() + b"\n")


def read_events(folder: Path, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """The events from byte ``offset`` on, complete lines only, each with the offset after it.

    A line that is not JSON, such as one torn by a crash, is passed over.
    """
    with suppress(OSError), (folder / EVENTS).open("rb") as file:
        file.seek(offset)
        for line in file:
            offset += len(line)
            event = None
            with suppress(ValueError, RecursionError):
                event = json.loads(line) if line.endswith(b"\n") else None
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                yield event, offset


def read_result(folder: Path) -> dict[str, Any] | None:
    """The run's record; None where there is none yet.

    Raises ResultsError if it is torn, altered, foreign or of another schema version.
    """
    path = folder / RESULT
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ResultsError(f"{path}: is not a whole JSON file") from None
    if not isinstance(value, dict):
        raise ResultsError(f"{path}: is not a record")
    version = value.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ResultsError(
            f"{path}: has schema version {str(version)[:20]}, this lora-cl reads {SCHEMA_VERSION}"
        )
    written = value.pop(CHECKSUM, None)
    if written is None:
        raise ResultsError(f"{path}: has no checksum, so it is no whole record")
    try:
        found = _checksum(value)
    except (ValueError, RecursionError):  # NaN, which no record holds
        found = ""
    if found != written:
        raise ResultsError(f"{path}: is not what was written: its checksum does not fit")
    return value


def status_of(folder: Path, run_hash: str) -> str | None:
    """The status on record of that run in its folder; None where there is no readable record."""
    with suppress(ResultsError):
        result = read_result(folder)
        if result is not None and result.get("hash") == run_hash:
            return str(result.get("status"))
    return None


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
