"""Tensors on disk: safetensors files with a checksum, sealed adapters, checkpoints of a run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from lora_cl.errors import ResultsError
from lora_cl.files import open_regular
from lora_cl.methods import Bank
from lora_cl.records.files import (
    make_within,
    require_folder,
    sorted_json,
    sync_directory,
    write_atomic,
)
from lora_cl.records.layout import (
    ADAPTER,
    ADAPTER_CONFIG,
    checkpoint_file,
    checkpoints_in,
    remove_checkpoints,
    remove_sealed,
    task_folder,
    tasks_in,
)
from lora_cl.records.tensor_files import (
    META,
    blocks,
    read_header,
    read_verified,
    require_config,
    require_owner,
    with_checksum,
)

__all__ = ["AdapterFolder", "Checkpoints", "load_tensors", "require_owner", "save_tensors"]

Tensors = dict[str, Tensor]


def save_tensors(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Writes tensors and JSON metadata as one safetensors file, atomically, with a checksum."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(meta, sort_keys=True)
    write_atomic(path, with_checksum(save_safetensors(plain, {META: text, "format": "pt"})))


def load_tensors(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """The tensors (on the CPU) and metadata of a file that ``save_tensors`` wrote.

    Raises ResultsError, naming the file, if it is missing, torn, altered or foreign.
    """
    header, body = read_verified(path)
    try:
        return load_safetensors(body), header.meta
    except Exception:  # Whatever a header under a right checksum may lead the library to.
        raise ResultsError(f"{path}: is damaged, or not a file of lora-cl") from None


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

    FILE, CONFIG = ADAPTER, ADAPTER_CONFIG

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
        for task_id in tasks_in(self.folder):
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
            header = read_header(Path(path))
            digest = hashlib.blake2b(digest_size=16)
            with open_regular(path) as file:
                for block in blocks(file):
                    digest.update(block)
        except FileNotFoundError:
            raise KeyError(task_id) from None
        except OSError as error:
            raise ResultsError(f"{path}: cannot be read: {error.strerror}") from None
        count = header.meta.get("parameters")
        count = count if type(count) is int else header.parameters
        self._seals[task_id] = _Seal(path, stat, digest.hexdigest(), count)
        return self._seals[task_id]

    def path(self, task_id: int) -> Path:
        return self.folder / task_folder(task_id)

    def _file(self, task_id: int) -> str:
        # As text: asked for every sealed task after every task, a Path would cost twice the time.
        return f"{self.folder}{os.sep}{task_folder(task_id)}{os.sep}{self.FILE}"

    def __setitem__(self, task_id: int, tensors: Tensors) -> None:
        self._seals.pop(task_id, None)
        place = make_within(self.folder.parent, self.folder.name, task_folder(task_id))
        encoded = self.encode(tensors)
        if encoded is None:
            save_tensors(place / self.FILE, tensors, {"run": self.run, "task": task_id})
        else:
            config, in_peft = encoded
            write_atomic(place / self.CONFIG, sorted_json(config))
            meta = {"run": self.run, "task": task_id, "peft": config}
            count = _elements(tensors)
            if count != _elements(in_peft):  # PEFT fills grouped convolutions up with zeros.
                meta["parameters"] = count
            save_tensors(place / self.FILE, in_peft, meta)
        sync_directory(self.folder)

    def check(self, task_id: int) -> None:
        """Also looks at PEFT's config, which is for others: nothing here reads it."""
        _, meta = self._load(task_id)
        require_config(self.path(task_id) / self.CONFIG, meta)

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
            try:
                tensors = self.decode(meta["peft"], tensors)
            except ResultsError as error:  # It begins with the name of the file.
                raise ResultsError(f"{self.path(task_id)}{os.sep}{error}") from error
        return {name: tensor.to(self.device) for name, tensor in tensors.items()}

    def __contains__(self, task_id: object) -> bool:
        return isinstance(task_id, int) and os.path.exists(self._file(task_id))

    def __delitem__(self, task_id: int) -> None:
        self._seals.pop(task_id, None)
        require_folder(self.folder)
        remove_sealed(self.path(task_id))

    def __iter__(self) -> Iterator[int]:
        return iter([task_id for task_id in tasks_in(self.folder) if task_id in self])

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _elements(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


class Checkpoints:
    """The latest checkpoints of one run: the newest that is whole is the one to go on from."""

    KEEP = 2

    def __init__(self, folder: Path, run: str) -> None:
        self.folder = folder
        self.run = run

    def save(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Writes the next checkpoint, then removes those that are no longer needed."""
        make_within(self.folder.parent, self.folder.name)
        numbers = checkpoints_in(self.folder)
        number = max(numbers, default=-1) + 1
        save_tensors(self._path(number), tensors, {**meta, "run": self.run})
        for old in sorted([*numbers, number])[: -self.KEEP]:
            self._path(old).unlink(missing_ok=True)

    def newest_first(self, say: Callable[[str], None]) -> Iterator[tuple[Tensors, dict[str, Any]]]:
        """The whole checkpoints; ``say`` hears of those that are damaged."""
        require_folder(self.folder)
        for number in reversed(checkpoints_in(self.folder)):
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
        """Removes what was saved; what else lies there stays."""
        remove_checkpoints(self.folder)

    def _path(self, number: int) -> Path:
        return self.folder / checkpoint_file(number)
