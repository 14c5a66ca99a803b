"""Which images of a folder are of which class, and which to train and which to test with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lora_cl.data.images import FORMATS, UNREAD
from lora_cl.data.split import stratified_split
from lora_cl.errors import DataError
from lora_cl.text import did_you_mean, one_line

NOT_OURS = frozenset(("__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found"))
"""What systems put into folders; hidden files and folders are passed over as well."""

SPLITS = frozenset(("dev", "test", "testing", "train", "training", "val", "valid", "validation"))


class Listing(NamedTuple):
    """The files of a data set and what they are, before any is opened."""

    names: tuple[str, ...]
    files: list[Path]
    y: NDArray[np.int64]
    files_test: list[Path]
    y_test: NDArray[np.int64]


def listing(path: Path, ignore: Sequence[str]) -> Listing:
    """The images of ``path``, without what ``ignore`` names; looks at names alone.

    Raises DataError, or OSError, where something would not be read, or could be read in two ways.
    """
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "no such folder"
        raise DataError(f"{path}: {what}")
    inside = _folders(path, ignore)
    home = path / "train" if "train" in inside else path
    for name in ignore:
        if not any((place / name).exists() for place in (path, home)):
            hint = did_you_mean(name, [*inside, *_folders(home, ())])
            raise DataError(f"{path}: holds nothing called {name!r} to ignore{hint}")
    _require_one_layout(path, inside)
    _refuse_strays(path, ignore)
    names = _class_names(home, ignore)
    files, y = _listed(home, names)
    if "train" not in inside or "test" not in inside:
        kept, held = stratified_split(y, str(home), names)
        files, files_test = [files[row] for row in kept], [files[row] for row in held]
        return Listing(names, files, y[kept], files_test, y[held])
    different = sorted(set(names) ^ set(_class_names(path / "test", ignore)))
    if different:
        raise DataError(f"{path}: class {different[0]!r} is not in both train/ and test/")
    return Listing(names, files, y, *_listed(path / "test", names))


def _require_one_layout(path: Path, inside: Sequence[str]) -> None:
    """Raises DataError if a folder of ``path`` would not be read, or may be a split or a class."""
    splits = [name for name in inside if name.casefold() in SPLITS]
    others = [name for name in inside if name not in ("train", "test")]
    if not splits or ("train" in splits and not others):
        return
    if "train" in splits:
        tests = [name for name in others if name in splits and "test" not in inside]
        rename = [f"rename {tests[0]} to test"] if tests else []
        ways = [f"put it into `ignore: [{', '.join(others[:5])}]`", *rename]
        problem = f"holds {_told(others)} beside train/, which would not be read: "
        problem += ", or ".join(ways)
    else:
        problem = f"holds {_told(splits)} and no train/; images are read from train/ and test/"
    name = "train" if "train" in splits else splits[-1]
    raise DataError(
        f"{path}: {problem}; if {name} is a class, move all classes into {path / 'train'}/"
    )


def _told(names: Sequence[str]) -> str:
    few = ", ".join(f"{one_line(name, limit=30)}/" for name in names[:5])
    return few if len(names) <= 5 else f"{few} and {len(names) - 5} more"


def _visible(name: str) -> bool:
    return not name.startswith(".") and name not in NOT_OURS


def _folders(folder: Path, ignore: Sequence[str]) -> list[str]:
    found = (p.name for p in folder.iterdir() if p.is_dir())
    return sorted(name for name in found if _visible(name) and name not in ignore)


def _refuse_strays(folder: Path, ignore: Sequence[str]) -> None:
    for file in sorted(folder.iterdir()):
        image = file.suffix.lower() in FORMATS and _visible(file.name) and not file.is_dir()
        if image and file.name not in ignore:
            raise DataError(
                f"{file}: is an image in no class: each class is a folder, and what is not to be "
                f"read goes into `ignore`"
            )


def _class_names(folder: Path, ignore: Sequence[str]) -> tuple[str, ...]:
    _refuse_strays(folder, ignore)
    names = tuple(_folders(folder, ignore))
    if len(names) < 2:
        raise DataError(f"{folder}: holds {len(names)} class folders; at least 2 are needed")
    return names


def files_below(folder: Path) -> Iterator[Path]:
    """The files below ``folder``, links followed, without what is hidden or a system's."""

    def give_up(error: OSError) -> None:
        raise error

    seen: set[tuple[int, int]] = set()
    for place, folders, files in os.walk(folder, onerror=give_up, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:  # A link that leads in a circle.
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = filter(_visible, folders)
        yield from (Path(place, name) for name in files if _visible(name))


def _listed(folder: Path, names: tuple[str, ...]) -> tuple[list[Path], NDArray[np.int64]]:
    """The images below ``folder``, class by class, and their labels."""
    files: list[Path] = []
    labels: list[int] = []
    allowed = ", ".join(sorted(FORMATS))
    for label, name in enumerate(names):
        below = sorted(files_below(folder / name))
        for file in below:
            if file.suffix.lower() in UNREAD:
                raise DataError(f"{file}: images of this kind are not read; allowed are {allowed}")
        found = [file for file in below if file.suffix.lower() in FORMATS]
        if not found:
            raise DataError(f"{folder / name}: holds no image ({allowed})")
        for file in found:
            if not file.is_file():
                raise DataError(f"{file}: is no regular file")
        files += found
        labels += [label] * len(found)
    return files, np.array(labels, dtype=np.int64)
