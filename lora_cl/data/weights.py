"""Pretrained weights: what files they are, every way to them, and what tells them apart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from lora_cl.data.fetching import File, Say, fetch_files, wrong
from lora_cl.data.links import Link, file_sum, hub_folder
from lora_cl.data.scratch import scratch_folder
from lora_cl.data.source import say_nothing
from lora_cl.errors import DataError
from lora_cl.options import user_path
from lora_cl.text import one_line

ALLOWED = (torch.float32, torch.float16, torch.bfloat16)
"""Types of weights: every number of theirs is one of float32, so that nothing is rounded."""


def misfit(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Why ``found`` cannot be loaded into ``expected`` without loss, its first three problems by
    name; empty if it can.

    Every tensor must have its place and every place its tensor, of its shape, all numbers finite;
    float32 may come in a shorter type.
    """
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} has no place" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        want, have = expected[name], found[name]
        allowed = ALLOWED if want.dtype == torch.float32 else (want.dtype,)
        if want.shape != have.shape:
            shapes = f"{tuple(have.shape)}, needed is {tuple(want.shape)}"
            problems.append(f"{name} has shape {shapes}")
        elif have.dtype not in allowed:
            types = ", ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
            kind = str(have.dtype).removeprefix("torch.")
            problems.append(f"{name} has type {kind}; allowed: {types}")
        elif not bool(torch.isfinite(have).all()):
            problems.append(f"{name} holds a NaN or infinite value")
    told = "; ".join(one_line(problem, limit=100) for problem in sorted(problems)[:3])
    return told + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")


_sums: dict[tuple[Path, int, int, int, int], str] = {}


class Weights(Protocol):
    """A folder of files that a pretrained backbone is made of."""

    def where(self, root: Path) -> Path | None:
        """The folder, if it is there; looks at names and sizes only."""

    def fetch(self, root: Path, say: Say = say_nothing) -> Path:
        """Makes sure that a sound copy is there, and returns its folder; DataError if none."""

    def checksum(self, root: Path) -> str:
        """``"sha256:..."`` of the files, the same wherever they came from."""


@dataclass(frozen=True)
class Published:
    """Files with known sums, kept in ``root / below / name``, and the links to them."""

    name: str
    files: tuple[File, ...]
    links: tuple[Link, ...]
    below: str = "models"

    def where(self, root: Path) -> Path | None:
        folder = root / self.below / self.name
        return None if any(wrong(folder / f.name, f.size) for f in self.files) else folder

    def fetch(self, root: Path, say: Say = say_nothing) -> Path:
        folder = root / self.below / self.name
        problem = self._problem(folder)
        if not problem:
            return folder
        names = ", ".join(file.name for file in self.files)
        return fetch_files(
            self.name,
            self.files,
            folder,
            root,
            self.links,
            f"cache: {folder}: {problem}",
            f"By hand: put {names} into {folder}, or let --data-dir or LORA_CL_DATA name a folder "
            f"that holds {Path(self.below, self.name)}",
            say,
        )

    def _problem(self, folder: Path) -> str:
        for file in self.files:
            if problem := wrong(folder / file.name, file.size):
                return f"{file.name} {problem}"
            if not (found := sha256(folder / file.name)).startswith(file.sum):
                return f"{file.name} has sha256 {found}, expected {file.sum}"
        return ""

    def checksum(self, root: Path) -> str:
        if all(len(file.sum) == 64 for file in self.files):
            return listing_checksum({file.name: file.sum for file in self.files})
        folder = self.fetch(root)
        return listing_checksum({file.name: sha256(folder / file.name) for file in self.files})


KINDS = (".json", ".txt", ".model", ".safetensors")
"""The files of a model on the Hugging Face hub that are of use here; none of them is run."""


@dataclass(frozen=True)
class OwnFolder:
    """A folder of your own, as ``save_pretrained`` of transformers writes it."""

    path: str

    def where(self, root: Path) -> Path | None:
        folder = user_path(self.path)
        return folder if folder.is_dir() else None

    def fetch(self, root: Path, say: Say = say_nothing) -> Path:
        folder = self.where(root)
        if folder is None:
            raise DataError(f"{self.path}: is no folder")
        if not (folder / "config.json").is_file():
            raise DataError(f"{folder}: holds no config.json")
        if not any(folder.glob("*.safetensors")):
            pickles = [file.name for file in (*folder.glob("*.bin"), *folder.glob("*.pt"))]
            told = f" ({pickles[0]} is a pickle, which can run code: it is not read)"
            raise DataError(f"{folder}: holds no .safetensors{told if pickles else ''}")
        return folder

    def checksum(self, root: Path) -> str:
        files = sorted(file for file in self.fetch(root).iterdir() if file.suffix in KINDS)
        return listing_checksum({file.name: sha256(file) for file in files})


@dataclass(frozen=True)
class OwnFile:
    """A safetensors file of your own, in whatever folder."""

    path: str

    def where(self, root: Path) -> Path:
        return user_path(self.path).parent

    def fetch(self, root: Path, say: Say = say_nothing) -> Path:
        if problem := wrong(user_path(self.path), None):
            raise DataError(f"{self.path}: {problem}")
        return self.where(root)

    def checksum(self, root: Path) -> str:
        self.fetch(root)
        return f"sha256:{sha256(user_path(self.path))}"


@dataclass(frozen=True)
class HubFolder:
    """A model of the Hugging Face hub, kept in ``root / "models"`` once it is fetched."""

    repository: str

    def where(self, root: Path) -> Path | None:
        folder = root / "models" / self.repository.replace("/", "--")
        return folder if (folder / "config.json").is_file() else None

    def fetch(self, root: Path, say: Say = say_nothing) -> Path:
        folder = root / "models" / self.repository.replace("/", "--")
        if self.where(root) is None:
            say(f"{self.repository}: trying the Hugging Face hub")
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
                with scratch_folder(root) as scratch:
                    made = scratch / "model"
                    hub_folder(self.repository, [f"*{kind}" for kind in KINDS], made)
                    made.replace(folder)
            except OSError as error:
                raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from None
        return OwnFolder(str(folder)).fetch(root)

    def checksum(self, root: Path) -> str:
        return OwnFolder(str(self.fetch(root))).checksum(root)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name; DataError if it cannot be read."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.is_dir():
            raise ValueError("is a directory; a .safetensors file is needed")
        if path.exists() and not path.is_file():
            raise ValueError("is no regular file")
        return load_file(path)
    except FileNotFoundError:
        problem = "no such file"
    except OSError as error:
        problem = f"cannot be read: {error.strerror or one_line(error)}"
    except SafetensorError as error:
        problem = f"is not a safetensors file ({one_line(error)})"
    except ValueError as error:
        problem = str(error)
    raise DataError(f"{path}: {problem}")


def read_verified_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict that torch.save wrote, by name; DataError if there are none.

    Only for published files whose checksum was verified; and even so nothing of it is run.
    """
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # What the many ways to be no such file raise.
        raise DataError(f"{path}: cannot be read: {one_line(error)}") from None
    if not isinstance(found, Mapping) or not all(isinstance(t, Tensor) for t in found.values()):
        raise DataError(f"{path}: holds no tensors by name")
    return {str(name): tensor for name, tensor in found.items()}


def sha256(path: Path) -> str:
    """The sha256 of a file, which is read once as long as it does not change."""
    stat = path.stat()
    key = (path, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size)
    if key not in _sums:
        _sums[key] = file_sum(path, "sha256")
    return _sums[key]


def listing_checksum(sums: Mapping[str, str]) -> str:
    """``"sha256:..."`` of files by their names and sums."""
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    return f"sha256:{hashlib.sha256(listing.encode()).hexdigest()}"
