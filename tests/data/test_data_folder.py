from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from lora_cl.data import Dataset, folder, make_source, packed, source
from lora_cl.data.folder import FolderOptions
from lora_cl.data.images import read_image
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


def fill(root: Path, *names: str) -> Path:
    """Images of these names, each of another grey."""
    for shade, name in enumerate(names):
        picture(root / name, shade)
    return root


CLASSES = ("a/1.png", "a/2.png", "b/1.png", "b/2.png")


def within(folder: str) -> list[str]:
    return [f"{folder}/{name}" for name in CLASSES]


def test_what_is_hidden_or_a_systems_is_passed_over(tmp_path: Path):
    fill(tmp_path, *within("train"), *within("test"))
    clean = load(tmp_path)
    copies = [f"{half}/{c}/.ipynb_checkpoints/1.png" for half in ("train", "test") for c in "ab"]
    others = ["train/a/._1.png", "test/b/@eaDir/1.png", "__MACOSX/a/1.png", ".trash/c/1.png"]
    fill(tmp_path, *copies, *others)
    (tmp_path / "train" / "a" / "Thumbs.db").write_bytes(b"x")
    source._loaded.clear()
    again = load(tmp_path)
    assert again is not clean
    assert again.checksum == clean.checksum
    assert (len(again.y_train), len(again.y_test)) == (4, 4)


def test_a_link_to_images_is_followed_and_a_circle_is_not(tmp_path: Path):
    fill(tmp_path / "elsewhere", "1.png", "2.png", "3.png")
    root = fill(tmp_path / "data", *CLASSES)
    (root / "a" / "more").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "circle").symlink_to(root / "a")
    data = load(root)
    labels = torch.cat([data.y_train, data.y_test])
    assert labels.bincount().tolist() == [5, 2]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (
            [*within("train"), *within("val")],
            r"holds val/ beside train/, which would not be read: put it into `ignore: \[val\]`, "
            r"or rename val to test; if train is a class, move all classes into .*/train/$",
        ),
        (
            [*within("train"), *within("test"), *within("val")],
            r"holds val/ beside train/, .* not be read: put it into `ignore: \[val\]`; if train",
        ),
        (
            ["bus/1.png", "train/1.png"],
            r"holds bus/ beside train/.*; if train is a class, move all classes into .*/train/$",
        ),
        (
            [*CLASSES, "test/1.png"],
            r"holds test/ and no train/; .*; if test is a class, move all classes into .*/train/$",
        ),
        (
            [*within("training"), *within("Val")],
            r"holds Val/, training/ and no train/; images are read from train/ and test/; if ",
        ),
        (within("test"), "holds test/ and no train/; images are read from train/ and test/"),
        (["train/1.png", "test/1.png"], r"train/1\.png: is an image in no class: each class is a"),
        ([*CLASSES, "preview.png"], r"preview\.png: is an image in no class: each class is a fol"),
        ([*within("train"), "preview.png"], r"preview\.png: is an image in no class"),
        ([*CLASSES, "c/1.png"], r"c \(class 2\) has 1 example, and at least 2 are needed to split"),
    ],
)
def test_nothing_is_ignored_and_no_layout_is_guessed(tmp_path: Path, names, says):
    fill(tmp_path, *names)
    with pytest.raises(DataError, match=says) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_what_is_not_to_be_read_is_named(tmp_path: Path):
    fill(tmp_path, *within("train"), *within("test"), *within("val"), "preview.png")
    fill(tmp_path, "train/c/1.png", "test/c/1.png")
    data = load(tmp_path, ignore=["val", "preview.png", "c"])
    assert data.class_names == ("a", "b")
    assert (len(data.y_train), len(data.y_test)) == (4, 4)
    with pytest.raises(
        DataError, match=r"holds nothing called 'vall' to ignore \(did you mean 'va"
    ):
        load(tmp_path, ignore=["vall"])


def test_a_class_may_be_called_train_or_test_below_train(tmp_path: Path):
    fill(tmp_path, *(f"train/{name}/{index}.png" for name in ("train", "test") for index in (1, 2)))
    assert load(tmp_path).class_names == ("test", "train")


@pytest.mark.parametrize("name", ["a/3.heic", "a/3.JFIF", "b/deep/3.eps"])
def test_an_image_that_cannot_be_read_is_not_passed_over(tmp_path: Path, name: str):
    fill(tmp_path, *CLASSES)
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0")
    with pytest.raises(DataError, match=r"of this kind are not read; allowed are \.bmp, \.gif"):
        load(tmp_path)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path):
    fill(tmp_path, *CLASSES)
    os.mkfifo(tmp_path / "a" / "3.png")
    with pytest.raises(DataError, match=r"a/3\.png: is no regular file"):
        load(tmp_path)


def test_a_large_folder_is_checked_by_names_alone(pets: Path, tmp_path: Path, monkeypatch):
    whole, nothing = make_source("folder", FolderOptions(path=pets, size=5)).outline(tmp_path)
    assert nothing == ""
    (pets / "train" / "cat" / "1.png").write_bytes(b"no image")
    monkeypatch.setattr(packed, "IN_MEMORY", 400)
    data, not_looked_at = make_source("folder", FolderOptions(path=pets, size=5)).outline(tmp_path)
    assert not_looked_at == f"the 10 images in {pets} were not opened"
    assert data.x_train.shape == whole.x_train.shape == (6, 3, 5, 5)
    assert data.x_test.shape == whole.x_test.shape
    assert torch.equal(data.y_train, whole.y_train)
    assert torch.equal(data.y_test, whole.y_test)
    assert data.class_names == whole.class_names
    assert not list(tmp_path.glob("folder*"))


def test_an_unreadable_image_is_named(pets: Path):
    bad = pets / "test" / "dog" / "1.png"
    whole = picture(bad, (1, 2, 3), size=64).read_bytes()
    for content in (b"", b"no image", whole[: len(whole) // 2]):
        bad.write_bytes(content)
        with pytest.raises(DataError, match=r"test/dog/1\.png: is not a readable PNG") as caught:
            load(pets)
        assert "\n" not in str(caught.value)


def test_wrong_layouts_are_refused(pets: Path, tmp_path: Path):
    with pytest.raises(DataError, match="nothing: no such folder"):
        load(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"notes\.txt: is not a folder"):
        load(pets / "train" / "cat" / "notes.txt")
    with pytest.raises(DataError, match=r"xxx: cannot be read: File name too long"):
        load(tmp_path / ("x" * 300))
    (pets / "test" / "dog").rename(pets / "test" / "dig")
    with pytest.raises(DataError, match="class 'dig' is not in both train/ and test/"):
        load(pets)
    (pets / "test" / "dig").rename(pets / "test" / "dog")
    (pets / "train" / "bird").mkdir()
    (pets / "test" / "bird").mkdir()
    with pytest.raises(DataError, match="bird: holds no image"):
        load(pets)
    (tmp_path / "one" / "only").mkdir(parents=True)
    with pytest.raises(DataError, match="holds 1 class folders; at least 2"):
        load(tmp_path / "one")


@pytest.mark.parametrize(
    "options", [{"channels": 2}, {"size": 0}, {"size": 5000}, {"sise": 3}, {"ignore": "val"}]
)
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


def test_a_damaged_pack_is_noticed_and_decoded_anew(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    options = FolderOptions(path=pets, size=5)
    monkeypatch.setattr(packed, "IN_MEMORY", 400)
    whole = make_source("folder", options).load(tmp_path)
    x_train = whole.x_train.clone()
    (pack,) = (tmp_path / "folder").iterdir()
    content = pack.read_bytes()
    assert len(content) == 6 * 75 + 32
    turned = [bytes([*content[:at], content[at] ^ 1, *content[at + 1 :]]) for at in (0, 449, 481)]
    damages = [*turned, content[:-1], content[:100], content + b"!", b""]
    for damaged in damages:
        pack.write_bytes(damaged)
        source._loaded.clear()
        data = make_source("folder", options).load(tmp_path)
        assert data.checksum == whole.checksum
        assert torch.equal(data.x_train, x_train)
        assert pack.read_bytes() == content
    assert len(damages) == 7
    assert [path.name for path in (tmp_path / "folder").iterdir()] == [pack.name]


def test_what_a_killed_process_left_of_a_pack_is_removed(pets: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(packed, "IN_MEMORY", 400)
    left = tmp_path / "folder" / ".fetch-0123456789abcdef"
    left.mkdir(parents=True)
    (left / "half.pack").write_bytes(b"x")
    make_source("folder", FolderOptions(path=pets, size=5)).load(tmp_path)
    (pack,) = (tmp_path / "folder").iterdir()
    assert pack.suffix == ".pack"


def test_no_room_for_a_packed_stack_is_told(pets: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(packed, "IN_MEMORY", 10)
    (tmp_path / "root").write_text("a file where the folder would be")
    with pytest.raises(DataError, match=r"cannot hold its 0\.0 GB of decoded images"):
        make_source("folder", FolderOptions(path=pets, size=5)).load(tmp_path / "root")


def test_an_unreadable_image_among_many_is_named(pets: Path, tmp_path: Path):
    (pets / "train" / "dog" / "9.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"dog/9\.png: is not a readable PNG image"):
        load(pets)
