"""A drop-in MNIST of a few 4 x 4 images, with real files, real checksums and a real server."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from lora_cl.data.fetched import kept
from lora_cl.data.fetching import File
from lora_cl.data.links import Archive, Link
from lora_cl.data.mnist import NAMES, IdxSource
from lora_cl.data.source import NoOptions


def idx(array: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


TRAIN_X = np.arange(6 * 16, dtype=np.uint8).reshape(6, 4, 4)
TEST_X = 255 - np.arange(3 * 16, dtype=np.uint8).reshape(3, 4, 4)
TRAIN_Y, TEST_Y = np.array([0, 1, 2, 0, 1, 2], np.uint8), np.array([2, 1, 0], np.uint8)
RAW = dict(zip(NAMES, map(idx, (TRAIN_X, TRAIN_Y, TEST_X, TEST_Y)), strict=True))


def zipped(content: bytes) -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as stream:
        stream.write(content)
    return out.getvalue()


GZ = {f"{name}.gz": zipped(content) for name, content in RAW.items()}


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


class Tiny(IdxSource):
    name = "tiny"
    summary = "for tests"
    folder = "Tiny/raw"
    class_names = ("a", "b", "c")
    shape = (1, 4, 4)
    files = tuple(File(name, md5(content), len(content)) for name, content in RAW.items())
    archives = tuple(
        Archive(f"{name}.gz", md5(GZ[f"{name}.gz"]), {f"{name}.gz": name}) for name in RAW
    )

    def __init__(self, mirrors: Sequence[str] = (), packages: tuple[Link, ...] = ()) -> None:
        super().__init__(NoOptions())
        self._mirrors, self._packages = mirrors, packages

    def mirrors(self) -> Sequence[str]:
        return self._mirrors

    def packages(self) -> tuple[Link, ...]:
        return self._packages


class TinyKept(Tiny):
    """As KMNIST: only the archives' checksums are published, so the archives are kept."""

    name = "tiny-kept"
    archives = tuple(replace(archive, kept=True) for archive in Tiny.archives)
    files = kept(archives)


def put(folder: Path, contents: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        self.server.seen.append(self.path)  # type: ignore[attr-defined]


@contextlib.contextmanager
def server(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The URL of a loopback server of ``folder`` and the list of what was asked of it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder))) as http:
        seen: list[str] = []
        http.seen = seen  # type: ignore[attr-defined]
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_address[1]}/", seen
        finally:
            http.shutdown()
            thread.join()
