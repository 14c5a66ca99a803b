"""Files that are whole at any moment, and records that are never believed when they are not."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import re
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_cl.errors import ResultsError
from lora_cl.records import events, files, results
from lora_cl.records.events import EVENTS, append_event, read_events
from lora_cl.records.files import write_atomic
from lora_cl.records.folders import load_records, read_record, run_folders
from lora_cl.records.results import RESULT, read_result, status_of, write_result
from lora_cl.running.checkpoints import AdapterFolder, Checkpoints, load_tensors, save_tensors
from lora_cl.running.runner import Outcome, Where, run_one
from lora_cl.testing.runs import one_run, outcome

RECORD = {"schema_version": 1, "status": "done", "hash": "0123abcd", "n": 0.1, "x": [None, 1]}


# One file


class Faults:
    """Makes the ``nth`` write, fsync or rename fail as a full disk does, and all after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, below: Path) -> None:
        self.nth, self.count = 0, 0
        self.below = below
        real_replace, real_fsync = pathlib.Path.replace, os.fsync

        def failing(opens: Callable[..., Any]) -> Callable[..., Any]:
            def opened(path: Path, *args: Any) -> Any:
                file = opens(path, *args)
                return _Failing(file, self) if self.below in path.parents else file

            return opened

        def replaced(path: Path, target: Path) -> Path:
            self.point()
            return real_replace(path, target)

        def synced(descriptor: int) -> None:
            self.point()
            real_fsync(descriptor)

        monkeypatch.setattr(files, "create", failing(files.create))
        monkeypatch.setattr(events, "open_to_append", failing(events.open_to_append))
        monkeypatch.setattr(pathlib.Path, "replace", replaced)
        monkeypatch.setattr(os, "fsync", synced)

    def point(self) -> None:
        self.count += 1
        if self.nth and self.count >= self.nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _Failing:
    """A file whose write writes half and fails."""

    def __init__(self, file: Any, faults: Faults) -> None:
        self.file, self.faults = file, faults

    def __enter__(self) -> _Failing:
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, content: bytes) -> int:
        try:
            self.faults.point()
        except OSError:
            self.file.write(content[: len(content) // 2])
            self.file.flush()
            raise
        return int(self.file.write(content))


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    faults = Faults(monkeypatch, tmp_path)
    seen = []
    for nth in range(1, 6):
        faults.nth, faults.count = nth, 0
        with contextlib.suppress(OSError):
            write_atomic(path, b"a new one, much longer")
        seen.append(path.read_bytes())
        assert os.listdir(tmp_path) == ["file"]
    # write, fsync, rename fail: the old one; fsync of the directory fails: the new one is there.
    assert seen == [b"old"] * 3 + [b"a new one, much longer"] * 2


def test_a_new_file_is_complete_for_every_reader(tmp_path: Path) -> None:
    """A reader that opens the file during many rewrites sees one version or the other."""
    path = tmp_path / "file"
    versions = {bytes([letter]) * 100_000 for letter in b"ab"}
    write_atomic(path, min(versions))
    seen = set()
    for _ in range(20):
        for version in sorted(versions):
            with path.open("rb") as reader:
                write_atomic(path, version)
                seen.add(reader.read())
    assert seen == versions


# Records


def test_a_record_comes_back(tmp_path: Path) -> None:
    record = {**RECORD, "details": {10: (1.5, 2), 9: "é\ud800".encode("utf-8", "replace").decode()}}
    write_result(tmp_path, record)
    found = read_result(tmp_path)
    assert found == json.loads(json.dumps(record))
    assert status_of(tmp_path, "0123abcd") == "done"
    assert status_of(tmp_path, "another0") is None
    assert read_result(tmp_path / "none") is None


def test_no_record_holds_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_result(tmp_path, {**RECORD, "x": float("nan")})
    assert not list(tmp_path.iterdir())


def damaged(content: bytes) -> Iterator[bytes]:
    """Cut off anywhere, and each bit of some bytes turned."""
    for length in range(0, len(content) - 1, 7):
        yield content[:length]
    for place in range(0, len(content), 3):
        for bit in range(8):
            yield content[:place] + bytes([content[place] ^ (1 << bit)]) + content[place + 1 :]
    yield content + content
    yield b"\0" * len(content)


def test_a_damaged_record_is_noticed(tmp_path: Path) -> None:
    write_result(tmp_path, RECORD)
    path = tmp_path / RESULT
    whole = path.read_bytes()
    noticed = unharmed = 0
    for content in damaged(whole):
        path.write_bytes(content)
        record = read_record(tmp_path)
        if record.status == "done":
            assert record.result == RECORD  # Only white space was hit.
            unharmed += 1
            continue
        assert record.status == "unreadable"
        assert re.fullmatch(f"{path}: .*", record.result["error"]["message"])
        noticed += 1
    assert noticed > 500
    assert unharmed < 30


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not a whole JSON file"),
        (b"[]", "is not a record"),
        (b'{"schema_version": 2, "status": "done"}', "has schema version 2, this lora-cl reads 1"),
        (b'{"schema_version": 1, "status": "done"}', "has no checksum"),
        (b'{"schema_version": 1, "n": NaN, "checksum": "x"}', "holds the number NaN"),
        (b'{"schema_version": 1, "n": 1e999, "checksum": "x"}', "holds the number 1e999"),
        (
            b'{"schema_version": 1, "n": 1%s}' % (b"0" * 400),
            "holds the number 1000.*, which no run",
        ),
        (b'{"schema_version": true, "checksum": "x"}', "has schema version True"),
        (b'{"schema_version": 1, "n": [%s1]}' % (b"[]," * 2**21), "more lists and mappings"),
        (b"[" * 100_000, "is not a whole JSON file"),
        (b"\xff\xfe{", "is not a whole JSON file"),
    ],
)
def test_what_is_no_record(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / RESULT).write_bytes(content)
    with pytest.raises(ResultsError, match=words):
        read_result(tmp_path)


def test_folders(tmp_path: Path) -> None:
    for name in ("a/full/seed0-1", "a/lora/seed0-2", "b/full/seed0-3"):
        (tmp_path / name).mkdir(parents=True)
        write_result(tmp_path / name, {**RECORD, "experiment": name[0], "seed": 7})
    (tmp_path / "a" / "lora" / "seed10-3").mkdir()
    (tmp_path / "a" / "lora" / "seed10-3" / "config.yaml").write_text("")
    names = [
        str(folder.relative_to(tmp_path)) for folder in run_folders([tmp_path, tmp_path / "a"])
    ]
    assert names == ["a/full/seed0-1", "a/lora/seed0-2", "a/lora/seed10-3", "b/full/seed0-3"]
    found = [(r.experiment, r.label, r.seed, r.status) for r in load_records([tmp_path / "a"])]
    assert found == [
        ("a", "full", 7, "done"),
        ("a", "lora", 7, "done"),
        ("a", "lora", 10, "unfinished"),
    ]
    for path, words in ((tmp_path / "none", "does not exist"), (Path(__file__), "not a directory")):
        with pytest.raises(ResultsError, match=words):
            load_records([path])


# The event log


def test_events_are_read_as_far_as_they_are_whole(tmp_path: Path) -> None:
    append_event(tmp_path, "one", task=1)
    ((first, offset),) = read_events(tmp_path)
    assert first["event"] == "one"
    with (tmp_path / EVENTS).open("ab") as file:
        file.write(b'{"time": 1, "event": "to')
    assert not list(read_events(tmp_path, offset))
    append_event(tmp_path, "two\n\x1b")
    ((second, end),) = read_events(tmp_path, offset)
    assert second["event"] == "two\n\x1b"
    assert end == (tmp_path / EVENTS).stat().st_size
    assert len((tmp_path / EVENTS).read_bytes().splitlines()) == 3


def test_any_log_can_be_read(tmp_path: Path) -> None:
    lines = [b"", b"\xff\xfe", b"[]", b"{}", b'{"event": 1}', b"[" * 9999, b'{"event": "x"}', b"7"]
    (tmp_path / EVENTS).write_bytes(b"\n".join(lines) + b"\n")
    assert [event for event, _ in read_events(tmp_path)] == [{"event": "x"}]
    assert not list(read_events(tmp_path / "none", 5))


# Tensors

TENSORS = {
    "a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3).T,
    "count": torch.tensor(3),
    "packed": torch.arange(5, dtype=torch.uint8),
    "empty": torch.zeros(0, 4),
    "half": torch.ones(2, dtype=torch.bfloat16),
}


def test_tensors_come_back(tmp_path: Path) -> None:
    save_tensors(tmp_path / "t", TENSORS, {"x": [1, "é"]})
    found, meta = load_tensors(tmp_path / "t")
    assert meta == {"x": [1, "é"]}
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    whole = (tmp_path / "t").read_bytes()
    save_tensors(tmp_path / "t", TENSORS, {"x": [1, "é"]})
    assert (tmp_path / "t").read_bytes() == whole


def test_damaged_tensors_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "t"
    save_tensors(path, TENSORS, {"x": 1})
    whole = path.read_bytes()
    messages = []
    for content in damaged(whole):
        path.write_bytes(content)
        try:
            found, meta = load_tensors(path)
        except ResultsError as error:
            messages.append(str(error))
        else:
            assert meta == {"x": 1}
            assert all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())
    assert len(messages) > 1000
    assert set(messages) == {f"{path}: is damaged, or not a file of lora-cl"}
    with pytest.raises(ResultsError, match="none: is missing"):
        load_tensors(tmp_path / "none")


def test_adapters_know_where_they_belong(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    bank = AdapterFolder(tmp_path / "adapters", cpu, "run-a")
    for task in (0, 1, 12):
        bank[task] = {"x": torch.full((2,), float(task))}
    assert list(bank) == [0, 1, 12]
    assert torch.equal(bank[12]["x"], torch.full((2,), 12.0))
    with pytest.raises(ResultsError, match="is foreign: it belongs to run run-a, not run-b"):
        AdapterFolder(tmp_path / "adapters", cpu, "run-b")[1]
    (bank.path(1) / bank.FILE).write_bytes((bank.path(0) / bank.FILE).read_bytes())
    with pytest.raises(ResultsError, match="is foreign: it belongs to task 0, not 1"):
        bank[1]
    with pytest.raises(KeyError):
        bank[2]
    del bank[1]
    assert list(bank) == [0, 12]


def test_a_fingerprint_follows_the_file_and_the_count_what_is_sealed(tmp_path: Path) -> None:
    folder, cpu = tmp_path / "adapters", torch.device("cpu")
    bank = AdapterFolder(folder, cpu, "run-a")
    for task in (0, 1):
        bank[task] = {"x": torch.zeros(3 + task)}
    first = bank.fingerprint(0)
    assert bank.parameters() == AdapterFolder(folder, cpu, "run-a").parameters() == 7
    bank[0] = {"x": torch.zeros(10)}
    assert bank.fingerprint(0) != first
    assert bank.parameters() == 14
    bank[0] = {"x": torch.zeros(3)}
    assert bank.fingerprint(0) == first
    sealed = bank.path(0) / bank.FILE
    sealed.write_bytes(sealed.read_bytes()[:-1] + b"\1")
    assert bank.fingerprint(0) != first
    del bank[1]
    bank.path(2).mkdir()  # As a process that was killed while it sealed leaves it.
    assert bank.parameters() == 3
    for nothing in (1, 2):
        with pytest.raises(KeyError):
            bank.fingerprint(nothing)


def test_checkpoints_go_back_to_the_last_good_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "c", "run-a")
    said: list[str] = []
    for step in range(4):
        checkpoints.save({"x": torch.tensor(step)}, {"step": step})
    files = sorted((tmp_path / "c").iterdir())
    assert len(files) == 2
    assert [meta["step"] for _, meta in checkpoints.newest_first(said.append)] == [3, 2]
    content = files[1].read_bytes()
    files[1].write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert [meta["step"] for _, meta in checkpoints.newest_first(said.append)] == [2]
    assert said == [f"{files[1]}: is damaged, or not a file of lora-cl"]
    assert not files[1].exists()
    foreign = Checkpoints(tmp_path / "c", "run-b")
    assert list(foreign.newest_first(said.append)) == []
    assert "is foreign: it belongs to run run-a, not run-b" in said[1]


# A whole run


def test_a_run_survives_any_failing_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills up at each point in turn; what was there stays, and the run goes on later."""
    run = one_run("lora: {rank: 1}", "task", "benchmark.tasks=2", "train.epochs=1")
    assert run is not None
    run.resolved["checkpoint_seconds"] = 0.0
    faults = Faults(monkeypatch, tmp_path)
    assert run_one(run, Where(tmp_path / "whole")) == Outcome("done")
    points, whole = faults.count, outcome(tmp_path / "whole" / run.folder)
    assert points > 80
    statuses: dict[str, int] = {}
    for nth in range(1, points + 1, 3):
        where = Where(tmp_path / str(nth))
        folder = where.results / run.folder
        faults.nth, faults.count = nth, 0
        ended = run_one(run, where)
        faults.nth = 0
        assert ended.status == "failed"
        assert ended.message is not None
        assert "No space left on device" in ended.message
        assert "\n" not in ended.message
        status = read_record(folder).status if folder.exists() else "nothing"
        statuses[status] = statuses.get(status, 0) + 1
        assert status in ("unfinished", "done")
        if nth > 20:
            assert list(Checkpoints(folder / "checkpoint", run.run_hash).newest_first(fail)) or (
                status == "done"
            )
        assert run_one(run, where) == Outcome("done")
        assert outcome(folder) == whole
    assert statuses["unfinished"] > 25
    print(f"{sum(statuses.values())} of {points} points of failure: {statuses}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 400 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("mounting needs rights that this user has not")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    done, full = one_run("frozen: {}"), one_run("full: {}", "task", "model.hidden=[300]")
    assert done is not None
    assert full is not None
    where, large = Where(small_disk), Where(tmp_path / "large")
    assert run_one(done, where) == Outcome("done")
    before = outcome(small_disk / done.folder)
    full.resolved["checkpoint_seconds"] = 0.0
    assert run_one(full, large) == Outcome("done")
    checkpoint = 3 * (large.results / full.folder / "model.safetensors").stat().st_size
    free = os.statvfs(small_disk)
    room = free.f_bavail * free.f_frsize
    # Room for two checkpoints, not for the third that is written before the first is removed.
    (small_disk / "other").write_bytes(b"x" * (room - int(2.6 * checkpoint)))
    ended = run_one(full, where)
    assert ended.status == "failed"
    assert "No space left on device" in str(ended.message)
    assert outcome(small_disk / done.folder) == before
    record = read_record(small_disk / full.folder)
    assert record.status in ("failed", "unfinished")
    checkpoints = Checkpoints(small_disk / full.folder / "checkpoint", full.run_hash)
    assert len(list(checkpoints.newest_first(fail))) >= 1
    (small_disk / "other").unlink()
    assert run_one(full, where) == Outcome("done")
    assert outcome(small_disk / full.folder) == outcome(large.results / full.folder)


def fail(message: str) -> None:
    raise AssertionError(message)


def test_a_failed_run_stays_on_record_until_it_is_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = one_run("full: {}", "task")
    assert run is not None
    where, folder = Where(tmp_path), tmp_path / run.folder
    with monkeypatch.context() as patched:
        patched.setattr("lora_cl.training.loop.predictions", _raise(MemoryError("no more")))
        assert run_one(run, where) == Outcome("failed", "no more")
    record = read_record(folder)
    assert record.status == "failed"
    assert record.result["error"] == {
        "kind": "MemoryError",
        "message": "no more",
        "task": 0,
        "step": 6,
    }
    assert run_one(run, where) == Outcome("done")
    assert read_record(folder).result["error"] is None
    assert run_one(run, where) == Outcome("done")


def _raise(error: BaseException) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


def test_an_unexpected_error_is_recorded_with_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = one_run("full: {}", "task")
    assert run is not None
    with monkeypatch.context() as patched:
        patched.setattr("lora_cl.training.loop.predictions", _raise(KeyError("odd\nthing")))
        ended = run_one(run, Where(tmp_path))
    assert ended.status == "failed"
    assert "\n" not in str(ended.message)
    assert read_record(tmp_path / run.folder).result["error"]["kind"] == "KeyError"
    assert "KeyError" in (tmp_path / run.folder / "traceback.txt").read_text()
    assert run_one(run, Where(tmp_path)) == Outcome("done")
    assert not (tmp_path / run.folder / "traceback.txt").exists()


def test_files_are_for_their_owner_and_group_as_usual(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        results.write_atomic(tmp_path / "x", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o644
