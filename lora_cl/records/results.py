"""The record of a run, ``result.json``: written with a checksum of it, read by it."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from lora_cl.errors import ResultsError
from lora_cl.files import read_regular
from lora_cl.records.files import json_pieces, write_atomic
from lora_cl.records.plain_json import NumberError, read_json

SCHEMA_VERSION = 1
RESULT = "result.json"
BANK = "bank.json"
"""The record of a bank that was edited: no run wrote it, and no table counts it."""
CHECKSUM = "checksum"

MAX_BYTES, MAX_PARTS = 2**27, 2_000_000
"""Of a record: three matrices of 1300 tasks have 122 MB; lists and mappings in it."""

RUN_FOLDER = re.compile(r"seed(?P<seed>[0-9]+)-(?P<hash>[0-9a-f]+)")
"""How the folder of a run is called."""


def write_result(folder: Path, record: dict[str, Any], name: str = RESULT) -> None:
    """Puts the record of a run, with a checksum of it, in its folder."""
    plain = json.loads(json.dumps(record, allow_nan=False))
    write_atomic(folder / name, json_pieces({**plain, CHECKSUM: _checksum(plain)}))


def _checksum(record: dict[str, Any]) -> str:
    text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def read_result(folder: Path, name: str = RESULT) -> dict[str, Any] | None:
    """The run's record; None where there is none yet.

    Raises ResultsError if it is torn, altered, foreign, of another schema version or too large.
    """
    path = folder / name
    try:
        content = read_regular(path, MAX_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read: {error.strerror}") from None
    if content.count(b"[") + content.count(b"{") > MAX_PARTS:
        raise ResultsError(f"{path}: has more lists and mappings than a record ({MAX_PARTS:,})")
    try:
        value = read_json(content)
    except NumberError as error:
        raise ResultsError(f"{path}: {error}") from None
    except (ValueError, RecursionError):
        raise ResultsError(f"{path}: is not a whole JSON file") from None
    if not isinstance(value, dict):
        raise ResultsError(f"{path}: is not a record")
    version = value.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        raise ResultsError(
            f"{path}: has schema version {str(version)[:20]}, this lora-cl reads {SCHEMA_VERSION}"
        )
    written = value.pop(CHECKSUM, None)
    if written is None:
        raise ResultsError(f"{path}: has no checksum, so it is no whole record")
    try:
        found = _checksum(value)
    except (ValueError, RecursionError):
        found = ""
    if found != written:
        raise ResultsError(f"{path}: is not what was written: its checksum does not fit")
    return value


def read_own_result(folder: Path) -> dict[str, Any] | None:
    """As ``read_result``; also a ResultsError if the folder's name is that of another run."""
    result = read_result(folder)
    name = RUN_FOLDER.fullmatch(folder.resolve().name)
    if result is not None and name is not None and len(name["hash"]) >= 8:
        found = str(result.get("hash"))
        if not found.startswith(name["hash"]):
            raise ResultsError(
                f"{folder / RESULT}: is foreign: it is the record of run {found[:12]}"
            )
    return result


def status_of(folder: Path, run_hash: str) -> str | None:
    """The status on record of that run in its folder; None where there is no readable record."""
    with suppress(ResultsError):
        result = read_result(folder)
        if result is not None and result.get("hash") == run_hash:
            return str(result.get("status"))
    return None
