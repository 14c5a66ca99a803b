"""The record of a run, ``result.json``: written with a checksum of it, read by it."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from lora_cl.errors import ResultsError
from lora_cl.records.files import json_pieces, write_atomic

SCHEMA_VERSION = 1
RESULT = "result.json"
CHECKSUM = "checksum"


def write_result(folder: Path, record: dict[str, Any]) -> None:
    """Puts the record of a run, with a checksum of it, in its folder."""
    plain = json.loads(json.dumps(record, allow_nan=False))
    write_atomic(folder / RESULT, json_pieces({**plain, CHECKSUM: _checksum(plain)}))


def _checksum(record: dict[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


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
