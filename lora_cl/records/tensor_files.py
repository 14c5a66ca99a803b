"""Tensor files as bytes: the header of a safetensors file, and the checksum of all of it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lora_cl.errors import ResultsError
from lora_cl.files import open_regular, read_regular
from lora_cl.records.files import sorted_json

CHECKSUM, META = "lora_cl_checksum", "lora_cl"
MAX_HEADER = 100_000_000
"""Bytes, as the safetensors library has it."""


@dataclass(frozen=True)
class Header:
    """What a file says of itself: its checksum, what it belongs to, how many numbers it holds."""

    checksum: str
    meta: dict[str, Any]
    parameters: int


def read_header(path: Path) -> Header:
    """Looks at the header and at the size that it promises, not at the tensors.

    Raises ResultsError, naming the file, if it is missing, cut off, foreign or no file.
    """
    with _opened(path) as (header, _, _):
        return header


def verified(path: Path) -> Header:
    """As ``read_header``, with the checksum of the whole file found right; in little memory."""
    with _opened(path) as (header, digest, file):
        for block in blocks(file):
            digest.update(block)
        _require_checksum(header, digest)
        return header


def read_verified(path: Path) -> tuple[Header, bytes]:
    """As ``verified``, with the content of the file."""
    with _opened(path) as (header, digest, file):
        start = file.tell()
        file.seek(0)
        body = file.read()
        digest.update(memoryview(body)[start:])
        _require_checksum(header, digest)
        return header, body


def require_owner(path: Path, meta: Mapping[str, Any], **owner: object) -> None:
    """Raises ResultsError if a whole file is not the one that should lie at ``path``."""
    for name, value in owner.items():
        if meta.get(name) != value:
            found, wanted = str(meta.get(name))[:12], str(value)[:12]
            raise ResultsError(f"{path}: is foreign: it belongs to {name} {found}, not {wanted}")


def require_config(path: Path, meta: Mapping[str, Any]) -> None:
    """Raises ResultsError unless PEFT's config at ``path`` is the one of the file beside it.

    It is there for PEFT alone; ``meta`` of a file that PEFT cannot hold names none.
    """
    if "peft" in meta:
        expected = sorted_json(meta["peft"])
        try:
            found = read_regular(path, len(expected))
        except FileNotFoundError:
            raise ResultsError(f"{path}: is missing") from None
        except OSError as error:
            raise ResultsError(f"{path}: cannot be read: {error.strerror}") from None
        if found != expected:
            raise ResultsError(f"{path}: is damaged: it is not what the tensors beside it say")


def blocks(file: BinaryIO) -> Iterator[bytes]:
    """What is left of a file, in pieces."""
    while block := file.read(2**20):
        yield block


def with_checksum(body: bytes) -> list[bytes | memoryview]:
    """The pieces of a safetensors file with its checksum in it, and its metadata in order."""
    (length,) = struct.unpack("<Q", body[:8])
    header, data = json.loads(body[8 : 8 + length]), memoryview(body)[8 + length :]
    digest = hashlib.sha256(_canonical(header))
    digest.update(data)
    header["__metadata__"][CHECKSUM] = digest.hexdigest()
    # The library writes the metadata in no fixed order; the same content should be the same bytes.
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    return [struct.pack("<Q", len(encoded)) + encoded, data]


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Header, Any, BinaryIO]]:
    """The header, the digest of it, and the file, where the tensors begin."""
    try:
        with open_regular(path) as file:
            yield *_header(file), file
    except FileNotFoundError:
        raise ResultsError(f"{path}: is missing") from None
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, struct.error):
        raise ResultsError(f"{path}: is damaged, or not a file of lora-cl") from None


def _header(file: BinaryIO) -> tuple[Header, Any]:
    """Raises one of the errors above if it is none, or the file has not the size it promises."""
    (length,) = struct.unpack("<Q", file.read(8))
    if length > MAX_HEADER:
        raise ValueError("too long")
    header = json.loads(file.read(length))
    checksum = header["__metadata__"].pop(CHECKSUM)
    digest = hashlib.sha256(_canonical(header))
    meta = json.loads(header["__metadata__"][META])
    if not isinstance(meta, dict) or not isinstance(checksum, str):
        raise TypeError("not ours")
    entries = [entry for name, entry in header.items() if name != "__metadata__"]
    end = max((entry["data_offsets"][1] for entry in entries), default=0)
    if os.fstat(file.fileno()).st_size != 8 + length + end:
        raise ValueError("cut off")
    parameters = sum(math.prod(entry["shape"]) for entry in entries)
    return Header(checksum, meta, parameters), digest


def _canonical(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def _require_checksum(header: Header, digest: Any) -> None:
    if digest.hexdigest() != header.checksum:
        raise ValueError("checksum")
