"""What is written, appended and removed, and what is not: links, pipes, the files of others."""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from pathlib import Path

import pytest

from lora_cl.errors import ResultsError
from lora_cl.files import open_now, read_regular
from lora_cl.records import files
from lora_cl.records.events import append_event, read_events
from lora_cl.records.files import make_within, remove_files, require_folder, write_atomic
from lora_cl.records.layout import (
    remove_ours,
    remove_temporaries,
    require_plain,
    strangers,
    task_of,
    tasks_in,
)
from lora_cl.records.output import write_output


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def filled(folder: Path, *paths: str) -> Path:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(path)
    return folder


RUN = (
    "result.json",
    "config.yaml",
    "events.jsonl",
    "model.safetensors",
    "adapters/task-000/adapter_model.safetensors",
    "adapters/task-000/adapter_config.json",
    "checkpoint/00000003.safetensors",
    ".result.json.17.tmp",
    "adapters/task-000/.adapter_config.json.17.tmp",
    "checkpoint/.00000004.safetensors.17.tmp",
)
MINE = (
    "notes.txt",
    ".notes.17.tmp",
    "adapters/task-000.bak/adapter_model.safetensors",
    "adapters/task-0/x",
    "adapters/task-000/notes.txt",
    "checkpoint/best.safetensors",
    "checkpoint/3.safetensors",
)


def test_only_what_a_run_wrote_is_removed(tmp_path: Path) -> None:
    folder = filled(tmp_path / "r", *RUN, *MINE)
    assert {str(path.relative_to(folder)) for path in strangers(folder)} == {
        "adapters/task-000.bak",
        "adapters/task-0",
        "adapters/task-000/notes.txt",
        "checkpoint/best.safetensors",
        "checkpoint/3.safetensors",
    }
    remove_temporaries(folder)
    assert {path for path in RUN if not (folder / path).exists()} == set(RUN[-3:])
    remove_ours(folder)
    assert [path for path in names(folder) if (folder / path).is_file()] == sorted(MINE)
    alone = filled(tmp_path / "s", *RUN)
    remove_ours(alone)
    assert names(alone) == []


def test_a_task_is_known_by_its_whole_name(tmp_path: Path) -> None:
    filled(tmp_path, "task-000/x", "task-1000/x", "task-000.bak/x", "task-0/x", "task-0001/x")
    assert tasks_in(tmp_path) == [0, 1000]
    assert task_of("task-\u0663\u0663\u0663") is None
    assert tasks_in(tmp_path / "none") == []


def test_folders_are_made_and_no_link_is_entered(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "root").symlink_to("real")
    assert make_within(tmp_path / "root", "a", "b").is_dir()
    outside = filled(tmp_path / "outside", "kept")
    (tmp_path / "real" / "l").symlink_to(outside)
    (tmp_path / "real" / "nowhere").symlink_to("none")
    (tmp_path / "real" / "f").write_text("")
    for name, what in (("l", "a link"), ("nowhere", "a link"), ("f", "a file")):
        with pytest.raises(ResultsError, match=f"/{name}: is {what}, where a folder"):
            make_within(tmp_path / "root", name, "b")
        with pytest.raises(ResultsError, match=f"/{name}: is {what}"):
            remove_files(tmp_path / "root" / name, ["kept"])
    assert names(outside) == ["kept"]
    assert not require_folder(tmp_path / "none")


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    outside = filled(tmp_path / "outside", "kept")
    folder = filled(tmp_path / "r", "other")
    (folder / "result.json").symlink_to(outside / "kept")
    (folder / "config.yaml").mkdir()
    remove_files(folder, ["result.json"])
    with pytest.raises(ResultsError, match=r"config.yaml: is a directory, where a run writes"):
        remove_files(folder, ["config.yaml"])
    assert names(folder) == ["config.yaml", "other"]
    assert names(outside) == ["kept"]


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
@pytest.mark.parametrize("name", ["events.jsonl", ".lock", "result.json", "model.safetensors"])
def test_a_run_folder_holds_plain_files(kind: str, name: str, tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "r"
    outside.write_text("precious")
    folder.mkdir()
    require_plain(folder)
    make = {"link": lambda p: p.symlink_to(outside), "pipe": os.mkfifo, "directory": os.mkdir}
    make[kind](folder / name)
    with pytest.raises(ResultsError, match=f"{name}: is a {kind}, where a run writes a file"):
        require_plain(folder)
    if name == "events.jsonl":
        with pytest.raises(ResultsError, match=f"is a {kind}"):
            append_event(folder, "x")
        assert list(read_events(folder)) == []
    assert outside.read_text() == "precious"


def test_a_temporary_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("precious")
    (tmp_path / f".x.{os.getpid()}.tmp").symlink_to(outside)
    write_atomic(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"
    assert outside.read_text() == "precious"
    with pytest.raises(FileExistsError):
        files.create(tmp_path / "x")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_will_do(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    def refuse(descriptor: int) -> None:
        nonlocal asked
        asked += 1
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    write_atomic(tmp_path / "x", b"content")
    assert asked == 2
    assert (tmp_path / "x").read_bytes() == b"content"
    number = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        write_atomic(tmp_path / "x", b"more")


# Files whose name a person gives


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_an_output_keeps_its_mode(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "table.md"
    path.write_text("old")
    path.chmod(mode)
    if os.geteuid() == 0:
        os.chown(path, 1234, 2345)
    before = path.stat()
    write_output(path, b"new")
    after = path.stat()
    assert path.read_bytes() == b"new"
    assert (after.st_mode, after.st_uid, after.st_gid) == (
        before.st_mode,
        before.st_uid,
        before.st_gid,
    )
    assert names(tmp_path) == ["table.md"]


def test_an_output_link_stays_a_link(tmp_path: Path) -> None:
    there = filled(tmp_path / "there", "table.md")
    (tmp_path / "link").symlink_to("there/table.md")
    (tmp_path / "new").symlink_to("made/later.md")
    (there / "table.md").chmod(0o600)
    write_output(tmp_path / "link", b"one")
    write_output(tmp_path / "new", b"two")
    assert (tmp_path / "link").readlink() == Path("there/table.md")
    assert (tmp_path / "new").readlink() == Path("made/later.md")
    assert (there / "table.md").read_bytes() == b"one"
    assert stat.S_IMODE((there / "table.md").stat().st_mode) == 0o600
    assert (tmp_path / "made" / "later.md").read_bytes() == b"two"


def test_an_output_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    heard: list[bytes] = []
    reader = threading.Thread(target=lambda: heard.append(pipe.read_bytes()))
    reader.start()
    write_output(pipe, b"content")
    reader.join(timeout=10)
    assert heard == [b"content"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    write_output(Path(os.devnull), b"content")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_an_output_that_is_open_already_goes_on(tmp_path: Path) -> None:
    """As with ``(echo title; lora-cl compare --output /dev/stdout) > page``."""
    with (tmp_path / "page").open("w+b") as file:
        file.write(b"title\n")
        file.flush()
        write_output(Path(f"/dev/fd/{file.fileno()}"), b"table\n")
    assert (tmp_path / "page").read_bytes() == b"title\ntable\n"


@pytest.mark.parametrize("path", ["", ".", "/", "folder"])
def test_an_output_is_a_file(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match="it is a directory, not a file"):
        write_output(Path(path), b"x")
    assert names(tmp_path) == ["folder"]


# What is opened


def test_only_a_file_of_that_size_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    (tmp_path / "link").symlink_to("x")
    assert read_regular(path, 5) == read_regular(tmp_path / "link", 5) == b"12345"
    os.mkfifo(tmp_path / "pipe")
    cases = {
        str(path): "it has 5 bytes, more than 4",
        str(tmp_path / "pipe"): "it is a pipe, not a file",
        str(tmp_path): "it is a directory, not a file",
        os.devnull: "it is a device, not a file",
        "a\0b": "no name holds a null character",
    }
    for name, words in cases.items():
        with pytest.raises(OSError, match=re.escape(words)):
            read_regular(name, 4)
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(OSError, match="it has 1,099,511,627,776 bytes, more than 10"):
        read_regular(sparse, 10)


def test_a_pipe_without_a_writer_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with open_now(tmp_path / "pipe") as file:
        assert file.read() == b""
    reading, writing = os.pipe()
    os.write(writing, b"content")
    os.close(writing)
    with open_now(f"/dev/fd/{reading}") as file:
        assert file.read() == b"content"
    os.close(reading)
