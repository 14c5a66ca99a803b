from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from lora_cl.data import Dataset, folder, make_source, packed, source
from lora_cl.data.folder import FolderOptions, read_image
from lora_cl.errors import DataError


def picture(path: Path, colour: tuple[int, int, int] | int, size: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = "L" if isinstance(colour, int) else "RGB"
    Image.new(mode, (size, size), colour).save(path)
    return path


def load(path: Path, **options: object) -> Dataset:
    return make_source("folder", FolderOptions(path=path, **options)).load(Path("nowhere"))


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    for half, count in (("train", 3), ("test", 2)):
        for index in range(count):
            picture(root / half / "dog" / f"{index}.png", (200, index, 0))
            picture(root / half / "cat" / f"{index}.png", (0, index, 100))
    (root / "train" / "cat" / "notes.txt").write_text("no image")
    (root / "train" / ".hidden").mkdir()
    return root


def test_train_and_test_folders_are_read_class_by_class(pets: Path):
    data = load(pets, size=5)
    assert data.class_names == ("cat", "dog")
    assert data.x_train.shape == (6, 3, 5, 5)
    assert data.x_train.dtype == torch.uint8
    assert data.y_train.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.y_test.tolist() == [0, 0, 1, 1]
    # One colour an image: red, green, blue of every pixel as it was painted.
    assert data.x_train[:, :, 2, 2].tolist() == [
        *([0, 0, 100], [0, 1, 100], [0, 2, 100], [200, 0, 0], [200, 1, 0], [200, 2, 0])
    ]
    assert load(pets, size=5) is data
    picture(pets / "train" / "cat" / "more.png", (1, 2, 3))
    assert len(load(pets, size=5).x_train) == 7


def test_grey_is_asked_for_by_one_channel(pets: Path):
    data = load(pets, size=4, channels=1)
    assert data.x_train.shape == (6, 1, 4, 4)
    # Luma (ITU-R 601): 0.299 * 200 = 59.8; 0.114 * 100 = 11.4.
    assert data.x_train[0, 0, 0, 0] == 11
    assert data.x_train[3, 0, 0, 0] == 60


def test_without_a_test_folder_a_fifth_is_held_out(tmp_path: Path):
    for index in range(10):
        picture(tmp_path / "a" / f"{index:02d}.png", 10 + index)
        picture(tmp_path / "b" / "deeper" / f"{index:02d}.jpg", 100)
    data = load(tmp_path, channels=1, size=2)
    assert data.y_train.bincount().tolist() == [8, 8]
    assert data.y_test.bincount().tolist() == [2, 2]
    shades = torch.cat([data.x_train[data.y_train == 0], data.x_test[data.y_test == 0]])
    assert sorted(shades[:, 0, 0, 0].tolist()) == list(range(10, 20))


def test_palettes_and_transparency_are_read_without_a_warning(tmp_path: Path):
    for name in ("a", "b"):
        for index in range(2):
            path = picture(tmp_path / name / f"{index}.png", (255, 0, 0))
            palette = Image.open(path).convert("P")
            palette.save(path, transparency=bytes([255, 0]))
    data = load(tmp_path, size=4)
    assert data.x_train[0, :, 0, 0].tolist() == [255, 0, 0]


def test_an_unreadable_image_is_named(pets: Path):
    bad = pets / "test" / "dog" / "1.png"
    whole = picture(bad, (1, 2, 3), size=64).read_bytes()
    for content in (b"", b"no image", whole[: len(whole) // 2]):
        bad.write_bytes(content)
        with pytest.raises(DataError, match=r"test/dog/1\.png: is not a readable image") as caught:
            load(pets)
        assert "\n" not in str(caught.value)
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(bad)
    with pytest.raises(DataError, match=r"1\.png: has mode I;16; allowed are 8 bits"):
        load(pets)


def test_wrong_layouts_are_refused(pets: Path, tmp_path: Path):
    with pytest.raises(DataError, match="is not a folder"):
        load(tmp_path / "nothing")
    (pets / "test" / "dog").rename(pets / "test" / "dig")
    with pytest.raises(DataError, match="class 'dig' is not in both train/ and test/"):
        load(pets)
    (pets / "test" / "dig").rename(pets / "test" / "dog")
    (pets / "train" / "bird").mkdir()
    (pets / "test" / "bird").mkdir()
    with pytest.raises(DataError, match="bird: holds no image"):
        load(pets)
    (pets / "train").rename(pets / "training")
    with pytest.raises(DataError, match="has test/ but no train/"):
        load(pets)
    (tmp_path / "one" / "only").mkdir(parents=True)
    with pytest.raises(DataError, match="holds 1 class folders; at least 2"):
        load(tmp_path / "one")


@pytest.mark.parametrize("options", [{"channels": 2}, {"size": 0}, {"size": 5000}, {"sise": 3}])
def test_options_are_strict(options: dict[str, object]):
    with pytest.raises(ValidationError):
        FolderOptions.model_validate({"path": "a", **options})


def test_a_stack_too_large_for_memory_is_decoded_once_and_mapped(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    options = FolderOptions(path=pets, size=5)
    whole = make_source("folder", options).load(tmp_path / "unused")
    monkeypatch.setattr(packed, "IN_MEMORY", 400)  # 6 images of 75 bytes are more, 4 are not.
    decoded = []
    monkeypatch.setattr(
        folder, "read_image", lambda *image: decoded.append(image[0]) or read_image(*image)
    )
    for attempt in range(3):
        source._loaded.clear()
        data = make_source("folder", options).load(tmp_path / "root")
        assert data.checksum == whole.checksum
        assert torch.equal(data.x_train, whole.x_train)
        assert torch.equal(data.x_test, whole.x_test)
        assert len(decoded) == 10 + 4 * attempt
        data.x_train.zero_()  # Whoever writes to it does so for himself alone.
    (pack,) = (tmp_path / "root" / "folder").iterdir()
    assert pack.stat().st_size > 6 * 75
    picture(pets / "train" / "cat" / "more.png", (1, 2, 3))
    assert len(make_source("folder", options).load(tmp_path / "root").x_train) == 7
    (anew,) = (tmp_path / "root" / "folder").iterdir()
    assert anew != pack


def test_no_room_for_a_packed_stack_is_told(pets: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(packed, "IN_MEMORY", 10)
    (tmp_path / "root").write_text("a file where the folder would be")
    with pytest.raises(DataError, match=r"cannot hold its 0\.0 GB of decoded images"):
        make_source("folder", FolderOptions(path=pets, size=5)).load(tmp_path / "root")


def test_an_unreadable_image_among_many_is_named(pets: Path, tmp_path: Path):
    (pets / "train" / "dog" / "9.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"dog/9\.png: is not a readable image"):
        load(pets)
