from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from data_tiny import server
from scipy.io import savemat

from lora_cl.data.cifar import Cifar10, Cifar100, CifarSource
from lora_cl.data.fetched import kept
from lora_cl.data.links import Archive
from lora_cl.data.source import NoOptions
from lora_cl.data.svhn import Svhn
from lora_cl.errors import DataError

OFFLINE = ["http://127.0.0.1:9/"]  # the discard port: nothing listens


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (3, 32, 32), dtype=np.uint8)


def files(kind: type[CifarSource] = Cifar10) -> dict[str, bytes]:
    """Two images a file."""
    return {
        name: b"".join(bytes([label]) + image(10 * index + label).tobytes() for label in (index, 9))
        for index, name in enumerate((*kind.train_files, *kind.test_files))
    }


def packed(root: Path, contents: dict[str, bytes]) -> CifarSource:
    """CIFAR-10 of an archive that lies in ``root`` and is the published one."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as out:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    root.mkdir(parents=True, exist_ok=True)
    (root / "cifar-10-binary.tar.gz").write_bytes(made.getvalue())

    class Packed(Cifar10):
        archives = (replace(Cifar10.archives[0], md5=hashlib.md5(made.getvalue()).hexdigest()),)
        files = kept(archives)

        def mirrors(self) -> list[str]:
            return OFFLINE

    return Packed(NoOptions())


def test_cifar_records_are_label_then_red_green_blue(tmp_path: Path):
    data = packed(tmp_path, files()).load(tmp_path)
    assert data.y_train.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert data.y_test.tolist() == [5, 9]
    assert data.x_train.shape == (10, 3, 32, 32)
    assert data.x_train.is_contiguous()
    assert torch.equal(data.x_train[3], torch.from_numpy(image(19)))
    assert torch.equal(data.x_test[0], torch.from_numpy(image(55)))
    assert data.class_names[:2] == ("airplane", "automobile")


def test_cifar100_takes_the_fine_label():
    train = bytes([19, 99]) + image(0).tobytes() + bytes([1, 0]) + image(1).tobytes()
    contents = {
        "train.bin": np.frombuffer(bytearray(train), np.uint8),
        "test.bin": np.frombuffer(bytearray(bytes([7, 50]) + image(2).tobytes()), np.uint8),
    }
    x, y, x_test, y_test = Cifar100(NoOptions()).parse(contents, Path("c"))
    assert y.tolist() == [99, 0]
    assert y_test.tolist() == [50]
    assert torch.equal(x[1], torch.from_numpy(image(1)))
    assert torch.equal(x_test[0], torch.from_numpy(image(2)))
    bad = contents["test.bin"].copy()
    bad[1] = 100
    with pytest.raises(DataError, match=r"c/test\.bin: a label is outside 0\.\.99"):
        Cifar100(NoOptions()).parse({**contents, "test.bin": bad}, Path("c"))


def test_cifar_class_names_are_all_there():
    assert len(set(Cifar100.class_names)) == 100
    assert sorted(Cifar100.class_names) == list(Cifar100.class_names)


def test_damaged_cifar_is_named(tmp_path: Path):
    contents = files()
    contents["data_batch_3.bin"] = contents["data_batch_3.bin"][:-1]
    with pytest.raises(DataError, match=r"data_batch_3\.bin: 6145 bytes are no whole images"):
        packed(tmp_path, contents).load(tmp_path)
    contents = files()
    contents["data_batch_3.bin"] = bytes([10]) + contents["data_batch_3.bin"][1:]
    with pytest.raises(DataError, match=r"data_batch_3\.bin: a label is outside 0\.\.9"):
        packed(tmp_path, contents).load(tmp_path)
    del contents["test_batch.bin"]
    with pytest.raises(DataError, match=r"holds no file cifar-10-batches-bin/test_batch\.bin"):
        packed(tmp_path, contents).load(tmp_path)


def test_the_archive_is_verified_whenever_it_is_loaded(tmp_path: Path):
    source = packed(tmp_path, files())
    heard: list[str] = []
    assert source.fetch(tmp_path, heard.append) == tmp_path
    assert heard == [f"cifar10: verified in {tmp_path}"]
    checksum = source.load(tmp_path).checksum
    archive = tmp_path / "cifar-10-binary.tar.gz"
    whole = archive.read_bytes()
    damages = [whole[:-1], whole + b"!", bytes([*whole[:99], whole[99] ^ 1, *whole[100:]]), b""]
    for damaged in damages:
        archive.write_bytes(damaged)
        with pytest.raises(DataError, match=r"binary\.tar\.gz: (has md5 .*, expected|is empty)"):
            source._load(tmp_path)
    assert len(damages) == 4
    archive.write_bytes(whole)
    assert source._load(tmp_path).checksum == checksum
    assert sorted(path.name for path in tmp_path.iterdir()) == [archive.name]


@pytest.mark.parametrize("kind", [Cifar10, Cifar100])
def test_unpacked_files_without_a_checksum_are_not_taken(tmp_path: Path, kind, monkeypatch):
    monkeypatch.setattr(kind, "mirrors", lambda self: OFFLINE)
    (tmp_path / kind.unpacked_folder).mkdir()
    for name, content in files(kind).items():
        (tmp_path / kind.unpacked_folder / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        kind(NoOptions()).load(tmp_path)
    told = f"{kind.unpacked_folder} is there, but its files have no published checksum"
    assert told in str(caught.value)


@pytest.mark.parametrize("kind", [Cifar10, Cifar100])
def test_pickles_are_never_read(tmp_path: Path, kind: type[CifarSource], monkeypatch):
    monkeypatch.setattr(kind, "mirrors", lambda self: OFFLINE)
    pickles = tmp_path / kind.python_folder
    pickles.mkdir()
    (pickles / "data_batch_1").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(DataError) as caught:
        kind(NoOptions()).load(tmp_path)
    assert f"{kind.python_folder} is there, but holds pickles" in str(caught.value)
    assert f"binary version, {kind.archives[0].name}, is needed" in str(caught.value)


def svhn(path: Path, labels: list[int]) -> bytes:
    # (H, W, C, N), as published: one pixel of each image tells it apart.
    x = np.zeros((32, 32, 3, len(labels)), np.uint8)
    x[1, 2, 0] = range(len(labels))
    savemat(path, {"X": x, "y": np.array(labels, np.uint8)[:, None]})
    return path.read_bytes()


def small_svhn(root: Path, train: list[int], test: list[int]) -> Svhn:
    contents = {
        "train_32x32.mat": svhn(root / "train_32x32.mat", train),
        "test_32x32.mat": svhn(root / "test_32x32.mat", test),
    }

    class Small(Svhn):
        archives = tuple(
            Archive(name, hashlib.md5(content).hexdigest(), {name: name}, kept=True)
            for name, content in contents.items()
        )
        files = kept(archives)

        def mirrors(self) -> list[str]:
            return OFFLINE

    return Small(NoOptions())


def test_svhn_is_turned_to_channels_first_and_ten_is_zero(tmp_path: Path):
    data = small_svhn(tmp_path, [10, 1, 9], [5, 10]).load(tmp_path)
    assert data.y_train.tolist() == [0, 1, 9]
    assert data.y_test.tolist() == [5, 0]
    assert data.x_train.shape == (3, 3, 32, 32)
    assert data.x_train.dtype == torch.uint8
    assert data.x_train[:, 0, 1, 2].tolist() == [0, 1, 2]
    assert int(data.x_train.sum()) == 3


def test_svhn_comes_by_download(tmp_path: Path, monkeypatch):
    """Its published files are no archives: what is downloaded is what is kept."""
    site = tmp_path / "site"
    site.mkdir()
    source = small_svhn(site, [10, 1, 9], [5, 10])
    with server(site) as (url, seen):
        monkeypatch.setattr(type(source), "mirrors", lambda self: [url])
        data = source.load(tmp_path / "root")
    assert data.y_train.tolist() == [0, 1, 9]
    assert set(seen) == {"/train_32x32.mat", "/test_32x32.mat"}
    assert sorted(path.name for path in (tmp_path / "root").iterdir()) == [
        *("test_32x32.mat", "train_32x32.mat")
    ]


def test_svhn_refuses_other_labels_and_other_files(tmp_path: Path):
    with pytest.raises(DataError, match=r"test_32x32\.mat: a label is outside 1\.\.10"):
        small_svhn(tmp_path, [1, 2], [11]).load(tmp_path)
    source = small_svhn(tmp_path, [1, 2], [3, 4])
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"train_32x32\.mat: has md5"):
        source.load(tmp_path)
    content = np.frombuffer(bytearray(b"no matlab file at all" * 50), np.uint8)
    with pytest.raises(DataError, match=r"train_32x32\.mat: is no readable MATLAB file"):
        source.parse({"train_32x32.mat": content, "test_32x32.mat": content}, tmp_path)
