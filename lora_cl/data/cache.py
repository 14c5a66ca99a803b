"""What lies in the cache beside the data sets, and can be made again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

KEPT = {
    "features": ("*/*", "what frozen pretrained networks made of their inputs"),
    "bases": ("*", "backbones pretrained by `base: {pretrain: ...}`"),
    "targets": ("*", "how far layers move, for `targets: {auto: ...}`"),
}
"""Folder -> where files lie in it, and what they are."""

OURS = re.compile(r"[0-9a-f]{64}\.safetensors")
"""A file named by a hash, as everything kept is."""


def files_of(root: Path, kind: str) -> Iterator[tuple[Path, int]]:
    """The files of one of KEPT that are ours by their names, and their sizes in bytes."""
    pattern, _ = KEPT[kind]
    for file in sorted((root / kind).glob(pattern)):
        with suppress(OSError):
            if OURS.fullmatch(file.name) and file.is_file() and not file.is_symlink():
                yield file, file.stat().st_size


def clear(root: Path, kind: str) -> tuple[int, int]:
    """Removes the files of one of KEPT; how many, and their bytes. Raises OSError."""
    removed = freed = 0
    for file, size in files_of(root, kind):
        file.unlink(missing_ok=True)
        removed, freed = removed + 1, freed + size
        if file.parent != root / kind:
            with suppress(OSError):  # Something else lies there as well.
                file.parent.rmdir()
    return removed, freed
