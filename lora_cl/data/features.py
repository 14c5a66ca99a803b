"""What a frozen network makes of its inputs, kept for other runs."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from lora_cl.data.cache import OURS, files_of

FOLDER = "features"
LIMIT_BYTES = 2 * 1024**3
"""All features together; beyond it those that were used longest ago go."""


class FeatureStore:
    """Features by the bytes of the input that they are of, in files named by their content.

    ``folder`` is ``root / FOLDER / key``, where the key names all that decides the features: the
    weights, the options of the network, and how it is computed. A file that is damaged or cannot be
    written costs the time to compute its features again, and nothing else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places: dict[bytes, Tensor] | None = None

    def __deepcopy__(self, memo: object) -> FeatureStore:
        return self

    def features(self, x: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """``compute(x)`` (N, D) for x (N, ...), where a row does not depend on the others."""
        if self.places is None:
            self.places = self._read()
        keys = [hashlib.blake2b(row.numpy().tobytes(), digest_size=16).digest() for row in x]
        first = {key: row for row, key in enumerate(keys) if key not in self.places}
        if first:
            rows = sorted(first.values())
            found = compute(x[torch.tensor(rows)]).detach()
            self.places.update(zip((keys[row] for row in rows), found, strict=True))
            self._write([keys[row] for row in rows], found)
        return torch.stack([self.places[key] for key in keys])

    def _read(self) -> dict[bytes, Tensor]:
        from safetensors import SafetensorError
        from safetensors.torch import load

        places: dict[bytes, Tensor] = {}
        with suppress(OSError):
            for file in sorted(self.folder.iterdir()):
                if not OURS.fullmatch(file.name) or not file.is_file():
                    continue
                content = file.read_bytes()
                if hashlib.sha256(content).hexdigest() != file.stem:
                    continue
                with suppress(SafetensorError, KeyError):
                    held = load(content)
                    keys = [bytes(key) for key in held["keys"].numpy()]
                    places.update(zip(keys, held["features"], strict=True))
                    os.utime(file)
        return places

    def _write(self, keys: list[bytes], features: Tensor) -> None:
        from safetensors.torch import save

        rows = torch.frombuffer(bytearray(b"".join(keys)), dtype=torch.uint8).view(-1, 16)
        content = save({"keys": rows, "features": features.contiguous()})
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            make_room(self.folder.parent, len(content))
            part = self.folder / f"{secrets.token_hex(8)}.tmp"
            try:
                part.write_bytes(content)
                part.replace(self.folder / f"{hashlib.sha256(content).hexdigest()}.safetensors")
            finally:
                part.unlink(missing_ok=True)


def make_room(folder: Path, size: int, limit: int = LIMIT_BYTES) -> None:
    """Removes the files of all stores in ``folder`` that were used longest ago, until ``size`` more
    bytes stay within ``limit``. Raises OSError."""
    kept = sorted(files_of(folder.parent, FOLDER), key=lambda pair: pair[0].stat().st_mtime_ns)
    over = sum(length for _, length in kept) + size - limit
    for file, length in kept:
        if over <= 0:
            break
        file.unlink(missing_ok=True)
        over -= length
