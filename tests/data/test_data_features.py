"""Features kept for other runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lora_cl.data import features
from lora_cl.data.features import FeatureStore, make_room

X = torch.arange(12.0).view(6, 2)


@pytest.fixture
def asked() -> list[Tensor]:
    """What was computed."""
    return []


@pytest.fixture
def compute(asked: list[Tensor]) -> Callable[[Tensor], Tensor]:
    def computed(x: Tensor) -> Tensor:
        asked.append(x)
        return torch.stack([x.sum(1), x.prod(1)], dim=1)

    return computed


def test_what_is_known_is_not_computed_again(
    tmp_path: Path, asked: list[Tensor], compute: Callable[[Tensor], Tensor]
) -> None:
    store = FeatureStore(tmp_path / "features/key")
    assert torch.equal(store.features(X[:3], compute)[:, 0], X[:3].sum(1))
    assert torch.equal(store.features(X[[1, 4, 1, 4, 0]], compute)[:, 0], X[[1, 4, 1, 4, 0]].sum(1))
    another = FeatureStore(tmp_path / "features/key")
    assert torch.equal(another.features(X[:5].flip(0), compute)[:, 0], X[:5].flip(0).sum(1))
    assert [x.tolist() for x in asked] == [X[:3].tolist(), X[[4]].tolist(), X[[3]].tolist()]
    assert len(list((tmp_path / "features/key").iterdir())) == 3
    FeatureStore(tmp_path / "features/other").features(X[:1], compute)
    assert len(asked) == 4


def test_a_damaged_file_is_computed_again(
    tmp_path: Path, asked: list[Tensor], compute: Callable[[Tensor], Tensor]
) -> None:
    folder = tmp_path / "features/key"
    right = FeatureStore(folder).features(X, compute)
    (file,) = folder.iterdir()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    (folder / ("0" * 64 + ".safetensors")).mkdir()
    assert torch.equal(FeatureStore(folder).features(X, compute), right)
    assert len(asked) == 2
    assert torch.equal(FeatureStore(folder).features(X, compute), right)
    assert len(asked) == 2


def test_where_nothing_can_be_written_it_computes(
    tmp_path: Path, asked: list[Tensor], compute: Callable[[Tensor], Tensor]
) -> None:
    (tmp_path / "features").write_text("a file")
    store = FeatureStore(tmp_path / "features/key")
    assert torch.equal(store.features(X, compute), store.features(X, compute))
    assert len(asked) == 1


def test_what_was_used_longest_ago_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compute: Callable[[Tensor], Tensor]
) -> None:
    folder = tmp_path / "features"
    for number in range(3):
        FeatureStore(folder / str(number)).features(X[number : number + 1], compute)
        (file,) = (folder / str(number)).iterdir()
        os.utime(file, (number, number))
        (folder / str(number) / "notes.txt").write_text("mine")
    size = file.stat().st_size
    make_room(folder, size, limit=3 * size)
    left = [sorted(file.suffix for file in (folder / str(n)).iterdir()) for n in range(3)]
    assert left == [[".txt"], [".safetensors", ".txt"], [".safetensors", ".txt"]]
    monkeypatch.setattr(features, "LIMIT_BYTES", 0)
    make_room(folder, 0, features.LIMIT_BYTES)
    assert len(list(folder.glob("*/*"))) == 3
