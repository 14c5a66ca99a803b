"""Files of weights: your own, and pickles that were verified."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file

from lora_cl.data.fetching import File
from lora_cl.data.links import LinkError, web_file
from lora_cl.data.weights import OwnFile, Published, read_safetensors, read_verified_pickle
from lora_cl.errors import DataError


def test_a_file_of_your_own_is_known_by_its_content(tmp_path: Path) -> None:
    for name in ("one", "two"):
        save_file({"a": torch.ones(2)}, tmp_path / f"{name}.safetensors")
    one, two = (OwnFile(str(tmp_path / f"{name}.safetensors")) for name in ("one", "two"))
    assert one.fetch(tmp_path) == tmp_path
    assert one.checksum(tmp_path) == two.checksum(tmp_path)
    content = (tmp_path / "one.safetensors").read_bytes()
    assert one.checksum(tmp_path) == f"sha256:{hashlib.sha256(content).hexdigest()}"
    save_file({"a": torch.zeros(3)}, tmp_path / "two.safetensors")
    assert one.checksum(tmp_path) != two.checksum(tmp_path)
    with pytest.raises(DataError, match=r"none\.safetensors: no such file"):
        OwnFile(str(tmp_path / "none.safetensors")).checksum(tmp_path)


def test_a_sum_may_be_how_a_sum_begins(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "w"
    folder.mkdir(parents=True)
    (folder / "w.pth").write_bytes(b"abc")
    begins = hashlib.sha256(b"abc").hexdigest()[:8]
    short = Published("w", (File("w.pth", begins),), ())
    assert short.fetch(tmp_path) == folder
    assert short.files[0].check(folder / "w.pth") == ""
    # What is recorded is the whole of it.
    whole = Published("w", (File("w.pth", hashlib.sha256(b"abc").hexdigest()),), ())
    assert short.checksum(tmp_path) == whole.checksum(tmp_path)
    (folder / "w.pth").write_bytes(b"abd")
    assert f"expected {begins}" in short.files[0].check(folder / "w.pth")
    with pytest.raises(DataError, match=r"w\.pth has sha256"):
        short.fetch(tmp_path)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1 / 0",)


def test_no_code_of_a_pickle_is_run(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "good.pth")
    assert torch.equal(read_verified_pickle(tmp_path / "good.pth")["a"], torch.ones(2))
    (tmp_path / "bad.pth").write_bytes(pickle.dumps(Harmful()))
    torch.save({"a": 1}, tmp_path / "other.pth")
    for name, message in (("bad.pth", "cannot be read"), ("other.pth", "holds no tensors by name")):
        with pytest.raises(DataError, match=message):
            read_verified_pickle(tmp_path / name)


def test_what_is_no_safetensors_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"no")
    for name, message in (("a.safetensors", "is not a"), ("", "is a dir"), ("b", "no such file")):
        with pytest.raises(DataError, match=message):
            read_safetensors(tmp_path / name)


def test_a_file_from_the_web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(url: str, folder: Path, name: str) -> None:
        if "there" not in url:
            raise URLError("not known")
        (folder / name).write_bytes(url.encode())

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download)
    link = web_file("https://there.invalid/models/w.pth")
    assert link.name == "there.invalid"
    found = link.get(tmp_path)
    assert found["w.pth"].read_bytes() == b"https://there.invalid/models/w.pth"
    with pytest.raises(LinkError, match="not known"):
        web_file("https://nowhere.invalid/w.pth").get(tmp_path)
