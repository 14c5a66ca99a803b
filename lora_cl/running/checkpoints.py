"""Tensors on disk: safetensors files with a checksum, sealed adapters, checkpoints of a run."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from lora_cl.errors import ResultsError
from lora_cl.methods import Bank
from lora_cl.records.files import sync_directory, to_json, write_atomic

CHECKSUM, META = "lora_cl_checksum", "lora_cl"


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes tensors and JSON metadata as one safetensors file, atomically, with a checksum."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(meta, sort_keys=True)
    body = save_safetensors(plain, {META: text, "format": "pt"})
    header, data = _parts(body)
    digest = hashlib.sha256(_canonical(header))
    digest.update(data)
    header["__metadata__"][CHECKSUM] = digest.hexdigest()
    # The library writes the metadata in no fixed order; the same content should be the same bytes.
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    write_atomic(path, [struct.pack("<Q", len(encoded)) + encoded, data])


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and metadata of a file that ``save_tensors`` wrote.

    Raises ResultsError, naming the file, if it is missing, torn, altered or foreign.
    """
    try:
        body = path.read_bytes()
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        header, data = _parts(body)
        written = header["__metadata__"].pop(CHECKSUM)
        digest = hashlib.sha256(_canonical(header))
        digest.update(data)
        if digest.hexdigest() != written:
            raise ValueError("checksum")
        return load_safetensors(body), json.loads(header["__metadata__"][META])
    except Exception:
        raise ResultsError(f"{path}: is damaged, or not a file of lora-cl") from None


def require_owner(path: Path, meta: Mapping[str, Any], **owner: object) -> None:
    """Raises ResultsError if a whole file is not the one that should lie at ``path``."""
    for name, value in owner.items():
        if meta.get(name) != value:
            found, wanted = str(meta.get(name))[:12], str(value)[:12]
            raise ResultsError(f"{path}: is foreign: it belongs to {name} {found}, not {wanted}")


def _parts(body: bytes) -> tuple[dict[str, Any], memoryview]:
    """A safetensors file's header and its data."""
    (length,) = struct.unpack("<Q", body[:8])
    header = json.loads(body[8 : 8 + length])
    return header, memoryview(body)[8 + length :]


def _canonical(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


Tensors = dict[str, Tensor]


class _Seal(NamedTuple):
    """What is known of a sealed file as long as its size, time and inode are these."""

    path: str
    stat: tuple[int, int, int]
    fingerprint: str
    parameters: int


class AdapterFolder(Bank):
    """The sealed state of each task, one folder a task: a method's bank on disk.

    ``encode`` turns a task's tensors into PEFT's config and tensors, or returns None where PEFT
    cannot hold them; ``decode`` is its inverse. A file is hashed again only when the file system
    says that it was touched, so that a thousand sealed tasks cost a thousand ``stat`` calls.
    ``run`` is the hash of the run, which is written with every task and checked on reading.
    """

    FILE, CONFIG = "adapter_model.safetensors", "adapter_config.json"

    def __init__(self, folder: Path, device: torch.device, run: str | None = None) -> None:
        self.folder = folder
        self.device = device
        self.run = run
        self.encode: Callable[[Tensors], tuple[dict[str, Any], Tensors] | None] = lambda _: None
        self.decode: Callable[[dict[str, Any], Tensors], Tensors] = lambda _, tensors: tensors
        self._seals: dict[int, _Seal] = {}

    def fingerprint(self, task_id: int) -> str:
        return self._seal(task_id).fingerprint

    def parameters(self) -> int:
        for task_id in self._numbers():
            if task_id not in self._seals and task_id in self:
                self._seal(task_id)
        return sum(seal.parameters for seal in self._seals.values())

    def _seal(self, task_id: int) -> _Seal:
        known = self._seals.get(task_id)
        path = known.path if known else self._file(task_id)
        try:
            found = os.stat(path)
            stat = (found.st_size, found.st_mtime_ns, found.st_ino)
            if known is not None and known.stat == stat:
                return known
            body = Path(path).read_bytes()
            header, _ = _parts(body)
        except FileNotFoundError:
            raise KeyError(task_id) from None
        except (OSError, ValueError, struct.error):
            raise ResultsError(f"{path}: cannot be read or is damaged") from None
        shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        count = sum(math.prod(shape) for shape in shapes)
        digest = hashlib.blake2b(body, digest_size=16).hexdigest()
        self._seals[task_id] = _Seal(path, stat, digest, count)
        return self._seals[task_id]

    def path(self, task_id: int) -> Path:
        return self.folder / f"task-{task_id:03d}"

    def _file(self, task_id: int) -> str:
        # As text: asked for every sealed task after every task, a Path would cost twice the time.
        return f"{self.folder}{os.sep}task-{task_id:03d}{os.sep}{self.FILE}"

    def __setitem__(self, task_id: int, tensors: Tensors) -> None:
        self._seals.pop(task_id, None)
        place = self.path(task_id)
        place.mkdir(parents=True, exist_ok=True)
        encoded = self.encode(tensors)
        if encoded is None:
            save_tensors(place / self.FILE, tensors, {"run": self.run, "task": task_id})
        else:
            config, tensors = encoded
            write_atomic(place / self.CONFIG, _sorted(config))
            meta = {"run": self.run, "task": task_id, "peft": config}
            save_tensors(place / self.FILE, tensors, meta)
        sync_directory(self.folder)

    def check(self, task_id: int) -> None:
        """Also looks at PEFT's config, which is for others: nothing here reads it."""
        _, meta = self._load(task_id)
        path = self.path(task_id) / self.CONFIG
        if "peft" in meta and not (path.is_file() and path.read_bytes() == _sorted(meta["peft"])):
            raise ResultsError(f"{path}: is missing or damaged")

    def _load(self, task_id: int) -> tuple[Tensors, dict[str, Any]]:
        if task_id not in self:
            raise KeyError(task_id)
        path = self.path(task_id) / self.FILE
        tensors, meta = load_tensors(path)
        require_owner(path, meta, task=task_id)
        if self.run is not None:
            require_owner(path, meta, run=self.run)
        return tensors, meta

    def __getitem__(self, task_id: int) -> Tensors:
        tensors, meta = self._load(task_id)
        if "peft" in meta:
            tensors = self.decode(meta["peft"], tensors)
        return {name: tensor.to(self.device) for name, tensor in tensors.items()}

    def __contains__(self, task_id: object) -> bool:
        return isinstance(task_id, int) and os.path.exists(self._file(task_id))

    def __delitem__(self, task_id: int) -> None:
        self._seals.pop(task_id, None)
        shutil.rmtree(self.path(task_id))

    def __iter__(self) -> Iterator[int]:
        return iter([task_id for task_id in self._numbers() if task_id in self])

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _numbers(self) -> list[int]:
        """Of all tasks that have a folder, which may be empty yet."""
        names = os.listdir(self.folder) if self.folder.is_dir() else []
        return sorted(int(n.removeprefix("task-")) for n in names if n.startswith("task-"))


def _sorted(config: Mapping[str, Any]) -> bytes:
    return to_json(json.loads(json.dumps(config, sort_keys=True)))


class Checkpoints:
    """The latest checkpoints of one run: the newest that is whole is the one to go on from."""

    KEEP = 2

    def __init__(self, folder: Path, run: str) -> None:
        self.folder = folder
        self.run = run

    def save(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Writes the next checkpoint, then removes those that are no longer needed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        numbers = self._numbers()
        number = max(numbers, default=-1) + 1
        save_tensors(self._path(number), tensors, {**meta, "run": self.run})
        for old in sorted([*numbers, number])[: -self.KEEP]:
            self._path(old).unlink(missing_ok=True)

    def newest_first(self, say: Callable[[str], None]) -> Iterator[tuple[Tensors, dict[str, Any]]]:
        """The whole checkpoints; ``say`` hears of those that are damaged."""
        for number in sorted(self._numbers(), reverse=True):
            path = self._path(number)
            try:
                tensors, meta = load_tensors(path)
                require_owner(path, meta, run=self.run)
            except ResultsError as error:
                say(str(error))
                path.unlink(missing_ok=True)
            else:
                yield tensors, meta

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _numbers(self) -> list[int]:
        stems = [path.stem for path in self.folder.glob("*.safetensors")]
        return [int(stem) for stem in stems if stem.isdecimal()]

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:08d}.safetensors"
