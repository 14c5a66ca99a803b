from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from lora_cl.data.cifar import PIXELS, Cifar10, Cifar100, CifarSource
from lora_cl.data.fetched import File
from lora_cl.data.links import Archive
from lora_cl.data.source import NoOptions
from lora_cl.data.svhn import Svhn
from lora_cl.errors import DataError

OFFLINE = ["http://127.0.0.1:9/"]  # the discard port: nothing listens


class TinyCifar(Cifar10):
    """CIFAR-10 with two images a file."""

    files = tuple(File(file.name, 2 * (1 + PIXELS)) for file in Cifar10.files)

    def mirrors(self) -> list[str]:
        return OFFLINE


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (3, 32, 32), dtype=np.uint8)


def write(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for index, file in enumerate(Cifar10.files):
        records = [bytes([label]) + image(10 * index + label).tobytes() for label in (index, 9)]
        (folder / file.name).write_bytes(b"".join(records))
    return folder


def test_cifar_records_are_label_then_red_green_blue(tmp_path: Path):
    write(tmp_path / TinyCifar.folder)
    data = TinyCifar(NoOptions()).load(tmp_path)
    assert data.y_train.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert data.y_test.tolist() == [5, 9]
    assert data.x_train.shape == (10, 3, 32, 32)
    assert data.x_train.is_contiguous()
    assert torch.equal(data.x_train[3], torch.from_numpy(image(19)))
    assert torch.equal(data.x_test[0], torch.from_numpy(image(55)))
    assert data.class_names[:2] == ("airplane", "automobile")


def test_cifar100_takes_the_fine_label():
    class Small(Cifar100):
        files = (File("train.bin"), File("test.bin"))

    train = bytes([19, 99]) + image(0).tobytes() + bytes([1, 0]) + image(1).tobytes()
    contents = {
        "train.bin": np.frombuffer(bytearray(train), np.uint8),
        "test.bin": np.frombuffer(bytearray(bytes([7, 50]) + image(2).tobytes()), np.uint8),
    }
    x, y, x_test, y_test = Small(NoOptions()).parse(contents, Path("c"))
    assert y.tolist() == [99, 0]
    assert y_test.tolist() == [50]
    assert torch.equal(x[1], torch.from_numpy(image(1)))
    assert torch.equal(x_test[0], torch.from_numpy(image(2)))
    bad = contents["test.bin"].copy()
    bad[1] = 100
    with pytest.raises(DataError, match=r"c/test\.bin: a label is outside 0\.\.99"):
        Small(NoOptions()).parse({**contents, "test.bin": bad}, Path("c"))


def test_cifar_files_have_the_published_lengths():
    # The page of the data set: a file of CIFAR-10 is exactly 30730000 bytes; CIFAR-100 has 50000
    # and 10000 records of 3074 bytes.
    assert [file.size for file in Cifar10.files] == [30_730_000] * 6
    assert [file.size for file in Cifar100.files] == [153_700_000, 30_740_000]
    assert len(set(Cifar100.class_names)) == 100
    assert sorted(Cifar100.class_names) == list(Cifar100.class_names)


def test_damaged_cifar_is_named(tmp_path: Path):
    folder = write(tmp_path / TinyCifar.folder)
    source = TinyCifar(NoOptions())
    whole = (folder / "data_batch_3.bin").read_bytes()
    (folder / "data_batch_3.bin").write_bytes(whole[:-1])
    assert source.where(tmp_path) is None
    with pytest.raises(DataError, match=r"data_batch_3\.bin: is truncated: 6145 of 6146 bytes"):
        source.load(tmp_path)
    (folder / "data_batch_3.bin").write_bytes(bytes([10]) + whole[1:])
    with pytest.raises(DataError, match=r"data_batch_3\.bin: a label is outside 0\.\.9"):
        source.load(tmp_path)


def test_an_archive_put_by_hand_is_unpacked_and_remembered(tmp_path: Path):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as out:
        out.add(write(tmp_path / "made"), "cifar-10-batches-bin")
    content = packed.getvalue()

    class Packed(TinyCifar):
        archives = (
            Archive(
                "cifar-10-binary.tar.gz",
                hashlib.md5(content).hexdigest(),
                Cifar10.archives[0].members,
            ),
        )

    root = tmp_path / "root"
    root.mkdir()
    (root / "cifar-10-binary.tar.gz").write_bytes(content)
    data = Packed(NoOptions()).load(root)
    assert data.y_test.tolist() == [5, 9]
    folder = root / "cifar-10-batches-bin"
    assert len((folder / "MD5SUMS").read_text().splitlines()) == 6
    # A flipped pixel is noticed later, although nobody publishes the md5 of the unpacked files.
    damaged = bytearray((folder / "test_batch.bin").read_bytes())
    damaged[500] ^= 1
    (folder / "test_batch.bin").write_bytes(damaged)
    with pytest.raises(
        DataError, match=r"test_batch\.bin: has md5 .*, expected .*data fetch cifar10"
    ):
        Packed(NoOptions())._load(root)
    assert Packed(NoOptions()).fetch(root) == folder
    assert Packed(NoOptions())._load(root).checksum == data.checksum


@pytest.mark.parametrize("kind", [TinyCifar, Cifar100])
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
        files = tuple(File(n, md5=hashlib.md5(c).hexdigest()) for n, c in contents.items())

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
