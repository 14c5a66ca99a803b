from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lora_cl.data import Dataset, make_source, memory
from lora_cl.data.npz import NpzOptions
from lora_cl.errors import DataError

X = np.arange(40, dtype=np.float32).reshape(10, 4)
Y = np.array([3, 5, 3, 5, 3, 5, 3, 5, 3, 5])


def load(path: Path) -> Dataset:
    return make_source("npz", NpzOptions(path=path)).load(Path("nowhere"))


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mine.npz"


def test_arrays_with_a_test_set_are_taken_as_they_are(path: Path):
    data = load(save(path, x=X, y=Y, x_test=X[:3] + 100, y_test=np.array([5, 3, 3])))
    assert torch.equal(data.x_train, torch.from_numpy(X))
    assert torch.equal(data.x_test, torch.from_numpy(X[:3] + 100))
    assert data.y_train.tolist() == [0, 1] * 5
    assert data.y_test.tolist() == [1, 0, 0]
    assert data.class_names == ("3", "5")
    assert data.classes == 2
    assert data.y_train.dtype == torch.int64


def test_without_a_test_set_a_fifth_of_each_class_becomes_one(path: Path):
    y = np.array([-7] * 10 + [200] * 13 + [4] * 2, dtype=np.int16)
    x = np.arange(25, dtype=np.float64)[:, None].repeat(2, 1)
    data = load(save(path, x=x, y=y))
    # 10 / 5 = 2; 13 / 5 = 2.6 -> 3; 2 / 5 = 0.4 -> at least 1. Order of the labels: -7, 4, 200.
    assert data.class_names == ("-7", "4", "200")
    assert data.y_test.bincount().tolist() == [2, 1, 3]
    assert data.y_train.bincount().tolist() == [8, 1, 10]
    both = torch.cat([data.x_train, data.x_test])[:, 0]
    assert sorted(both.tolist()) == list(range(25))
    for values, labels in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        original = [int(data.class_names[label]) for label in labels]
        assert original == [int(y[int(row)]) for row in values[:, 0]]
    assert data.x_train.dtype == torch.float32
    copy = load(save(path.with_name("copy.npz"), y=y, x=x))
    assert copy.checksum == data.checksum


def test_images_keep_their_bytes_and_gain_a_channel(path: Path):
    images = np.arange(10 * 6, dtype=np.uint8).reshape(10, 2, 3)
    data = load(save(path, x=images, y=Y))
    assert data.x_train.shape == (8, 1, 2, 3)
    assert data.x_train.dtype == torch.uint8
    colour = load(save(path, x=images[:, None].repeat(3, 1), y=Y))
    assert colour.x_train.shape == (8, 3, 2, 3)
    narrow = load(save(path, x=np.zeros((10, 1, 6, 3), np.uint8), y=Y))
    assert narrow.x_train.shape == (8, 1, 6, 3)
    deep = load(save(path, x=np.zeros((10, 16, 5, 5), np.float32), y=Y))
    assert deep.x_train.shape == (8, 16, 5, 5)


def test_flat_bytes_become_floats_between_zero_and_one(path: Path):
    data = load(save(path, x=np.full((10, 2), 51, np.uint8), y=Y))
    assert data.x_train.dtype == torch.float32
    assert torch.equal(data.x_train, torch.full((8, 2), 0.2))


def test_foreign_byte_order_and_column_order_are_read(path: Path):
    data = load(save(path, x=np.asfortranarray(X.astype(">f8")), y=Y.astype(">u2")))
    both = torch.cat([data.x_train, data.x_test])
    assert torch.equal(both[both[:, 0].argsort()], torch.from_numpy(X))


def test_a_changed_file_is_read_again(path: Path):
    before = load(save(path, x=X, y=Y))
    assert load(path) is before
    after = load(save(path, x=X + 1, y=Y, x_test=X, y_test=Y))
    assert after.checksum != before.checksum


def test_a_relative_path_starts_at_the_current_directory(path: Path, monkeypatch):
    save(path, x=X, y=Y)
    monkeypatch.chdir(path.parent)
    assert load(Path("mine.npz")).classes == 2


BAD_X = X.copy()
BAD_X[6, 1] = np.nan


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": X}, "array 'y' is missing"),
        ({"y": Y}, "array 'x' is missing"),
        ({"x": X, "y": Y, "x_test": X}, "array 'y_test' is missing"),
        ({"x": X, "y": Y, "y_test": Y}, "array 'x_test' is missing"),
        ({"x": X, "y": Y, "x_tset": X}, r"unknown array 'x_tset'; .*did you mean 'x_test'\?"),
        ({"x": X[:, 0], "y": Y}, r"x has shape \(10,\)"),
        ({"x": X.reshape(10, 1, 1, 2, 2), "y": Y}, r"x has shape \(10, 1, 1, 2, 2\)"),
        ({"x": X[:0], "y": Y[:0]}, "holds nothing"),
        ({"x": X.astype(np.int64), "y": Y}, "x has type int64; allowed are uint8 and floats"),
        ({"x": X.astype(complex), "y": Y}, "x has type complex128"),
        ({"x": X.astype(str), "y": Y}, "x has type"),
        ({"x": BAD_X, "y": Y}, r"x\[6\] holds a NaN or infinite value"),
        ({"x": X.astype(np.float64) * 1e40, "y": Y}, r"x\[0\] holds a NaN or infinite value"),
        ({"x": X, "y": Y.astype(np.float32)}, "y has type float32; labels are integers"),
        ({"x": X, "y": Y.astype(bool)}, "y has type bool"),
        ({"x": X, "y": Y[:, None]}, r"y has shape \(10, 1\)"),
        ({"x": X, "y": Y[:9]}, "x has 10 examples, y has 9"),
        ({"x": X, "y": np.zeros(10, int)}, "y holds the one label 0"),
        (
            {"x": X, "y": np.array([40] + [50] * 9)},
            r"y: 40 \(class 0\) has 1 example, and at least",
        ),
        (
            {"x": np.zeros((10, 6, 5, 3), np.uint8), "y": Y},
            r"x has shape \(10, 6, 5, 3\), which looks like \(N, H, W, C\); .* x\.transpose\(",
        ),
        ({"x": np.zeros((10, 6, 5, 1), np.float32), "y": Y}, r"looks like \(N, H, W, C\)"),
        (
            {"x": X, "y": Y, "x_test": np.zeros((10, 6, 5, 4), np.uint8), "y_test": Y},
            r"save x_test\.transpose\(0, 3, 1, 2\)",
        ),
        ({"x": X, "y": Y, "x_test": X[:, :3], "y_test": Y}, r"x_test holds examples of \(3,\)"),
        (
            {"x": X, "y": Y, "x_test": X.astype(np.uint8), "y_test": Y},
            r"x_test holds examples of \(4,\) uint8, x of \(4,\) float32",
        ),
        ({"x": X, "y": Y, "x_test": X, "y_test": Y + 1}, "y_test holds the label 4"),
        ({"x": X, "y": Y, "x_test": BAD_X, "y_test": Y}, r"x_test\[6\] holds a NaN"),
        ({"x": X, "y": Y, "x_test": X, "y_test": Y[:2]}, "x_test has 10 examples, y_test has 2"),
        ({"x": np.array([X, None], object), "y": Y}, "array 'x' cannot be read: it holds Python"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(path: Path, arrays: dict[str, Any], says: str):
    save(path, **arrays)
    with pytest.raises(DataError, match=says) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}:")
    assert "\n" not in str(caught.value)


def test_files_that_are_no_archives_are_refused(path: Path):
    with pytest.raises(DataError, match=r"mine\.npz: no such file"):
        load(path)
    with pytest.raises(DataError, match="is a directory"):
        load(path.parent)
    os.mkfifo(path.with_name("pipe.npz"))
    with pytest.raises(DataError, match=r"pipe\.npz: is no regular file"):
        load(path.with_name("pipe.npz"))
    with pytest.raises(DataError, match=r"x\.npz: cannot be read: File name too long"):
        load(path.with_name(f"{'x' * 300}.npz"))
    np.save(path.with_suffix(".npy"), X)
    for content in (b"", pickle.dumps(X), path.with_suffix(".npy").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"is not a \.npz archive"):
            load(path)


def test_more_than_fits_into_memory_is_not_begun(path: Path, monkeypatch):
    """Zeros are packed a thousandfold: a small file can hold more than the machine does."""
    np.savez_compressed(path, x=np.zeros((2000, 250), np.float32), y=np.arange(2000) % 2)
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(memory, "memory_bytes", lambda: 1_000_000)
    with pytest.raises(
        DataError, match=r"unpacked, it would take 2\.02 MB of memory; here are 1\.00 MB$"
    ):
        load(path)
    monkeypatch.setattr(memory, "memory_bytes", lambda: 2_100_000)
    assert load(path).classes == 2


def test_no_damage_passes_or_crashes(path: Path):
    """Each truncation is refused; each flipped byte is refused or changes nothing that matters."""
    buffer = io.BytesIO()
    np.savez(buffer, x=X, y=Y)
    whole = buffer.getvalue()
    good = load(save(path, x=X, y=Y))
    refused = 0
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"mine\.npz"):
            load(path)
        refused += 1
    assert refused == -(-len(whole) // 7) > 100
    tried = survived = 0
    said: list[str] = []
    for position in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        tried += 1
        try:
            data = make_source("npz", NpzOptions(path=path))._load(Path("nowhere"))
        except DataError as error:
            said.append(str(error))
        else:
            assert data.checksum == good.checksum
            survived += 1
    assert tried == -(-len(whole) // 3) > 200
    assert survived < tried / 2
    assert len(said) == tried - survived
    assert not any("\n" in message for message in said)
