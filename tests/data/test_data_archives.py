from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import pytest
from data_tiny import zipped

from lora_cl.data import archives
from lora_cl.data.archives import unpack
from lora_cl.errors import DataError


def tar(path: Path, contents: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as out:
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            out.addfile(info)
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    return path


def zip_file(path: Path, contents: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as out:
        for name, content in contents.items():
            out.writestr(name, content)
    return path


def inside(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "deep" / "target"
    folder.mkdir(parents=True)
    return folder


def test_named_members_come_out_and_nothing_else(tmp_path: Path, target: Path):
    contents = {"./d/one": b"1", "d/two.gz": zipped(b"22"), "d/three": b"333"}
    members = {"d/one": "one", "d/two.gz": "two"}
    packed = [
        tar(tmp_path / "a.tar.gz", contents),
        tar(tmp_path / "a.tgz", contents),
        tar(tmp_path / "a.tar", contents),
        zip_file(tmp_path / "a.zip", {name.removeprefix("./"): c for name, c in contents.items()}),
    ]
    for archive in packed:
        found = unpack(archive, members, target)
        assert {name: path.read_bytes() for name, path in found.items()} == {
            "one": b"1",
            "two": b"22",
        }
        assert inside(target) == ["one", "two"]
        for path in found.values():
            path.unlink()
    (tmp_path / "x.gz").write_bytes(zipped(b"raw"))
    assert unpack(tmp_path / "x.gz", {"x.gz": "x"}, target)["x"].read_bytes() == b"raw"


@pytest.mark.parametrize("name", ["../evil", "d/../../evil", "/tmp/evil", "..\\evil", "C:\\evil"])
def test_an_archive_that_points_outside_is_refused(tmp_path: Path, target: Path, name: str):
    before = inside(tmp_path)
    made = []
    for archive in (tmp_path / "a.tar.gz", tmp_path / "a.zip"):
        contents = {"good": b"1", name: b"evil"}
        make = zip_file if archive.suffix == ".zip" else tar
        make(archive, contents)
        made.append(archive.name)
        for members in ({"good": "good"}, {name: "good"}):
            with pytest.raises(
                DataError, match=r"refused, its member .* points outside its folder"
            ):
                unpack(archive, members, target)
    assert inside(tmp_path) == sorted([*before, *made])


def test_a_link_is_never_followed(tmp_path: Path, target: Path):
    (tmp_path / "secret").write_text("secret")
    archive = tar(tmp_path / "a.tar", {}, links={"good": str(tmp_path / "secret")})
    with pytest.raises(DataError, match=r"a\.tar: holds no file good"):
        unpack(archive, {"good": "good"}, target)
    assert inside(target) == []


def test_damage_and_absence_are_named(tmp_path: Path, target: Path):
    whole = tar(tmp_path / "a.tar.gz", {"good": bytes(range(256)) * 40}).read_bytes()
    whole_zip = zip_file(tmp_path / "a.zip", {"good": b"1" * 999}).read_bytes()
    whole_gz = zipped(b"1" * 99)
    tried = 0
    for name, content in (
        ("a.tar.gz", whole[: len(whole) // 2]),
        ("a.tar.gz", b"nonsense"),
        ("a.zip", whole_zip[:-20]),
        ("a.zip", whole_zip[:50] + b"!" + whole_zip[51:]),
        ("a.gz", whole_gz[:-3]),
        ("a.gz", b"nonsense"),
        ("a.gz", whole_gz[:-6] + b"??" + whole_gz[-4:]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"^{name}: is damaged"):
            unpack(tmp_path / name, {"a.gz" if name == "a.gz" else "good": "good"}, target)
        tried += 1
    assert tried == 7
    for archive in (tar(tmp_path / "b.tar", {"a": b""}), zip_file(tmp_path / "b.zip", {"a": b""})):
        with pytest.raises(DataError, match=f"{archive.name}: holds no file good"):
            unpack(archive, {"good": "good"}, target)


def test_a_bomb_is_stopped(tmp_path: Path, target: Path, monkeypatch):
    monkeypatch.setattr(archives, "LIMIT_BYTES", 10 * 1024**2)
    (tmp_path / "bomb.gz").write_bytes(zipped(bytes(64 * 1024**2)))
    with pytest.raises(DataError, match=r"bomb\.gz: unpacks to more than 10485760 bytes"):
        unpack(tmp_path / "bomb.gz", {"bomb.gz": "bomb"}, target)
    assert (target / "bomb").stat().st_size <= 11 * 1024**2
