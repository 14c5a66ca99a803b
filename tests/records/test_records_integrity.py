"""`fsck`: each file of a run is what the run wrote, or a line says what is wrong with it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from process_cases import ask

from lora_cl.records.events import append_event
from lora_cl.records.integrity import first_fault
from lora_cl.records.results import read_result, write_result
from lora_cl.running.checkpoints import load_tensors, save_tensors
from lora_cl.running.runner import Where, run_one
from lora_cl.testing.runs import one_run

ADAPTER = "adapters/task-001/adapter_model.safetensors"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that are done, under the labels a and b."""
    place = tmp_path_factory.mktemp("whole")
    for label, rank in (("a", 1), ("b", 2)):
        run = one_run(f"{label}: {{method: lora, rank: {rank}}}", "task", "train.epochs=1")
        assert run is not None
        assert run_one(run, Where(place)).status == "done"
    return place


def of(results: Path, label: str) -> Path:
    (folder,) = (results / "tiny" / label).iterdir()
    return folder


def turned(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def rewritten(path: Path) -> None:
    """Another content under a checksum that is right."""
    tensors, meta = load_tensors(path)
    save_tensors(path, {name: tensor + 1 for name, tensor in tensors.items()}, meta)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def test_whole_runs(results: Path) -> None:
    assert ask("fsck", results) == (0, "2 runs: all whole\n", "")
    assert ask("fsck", of(results, "a")) == (0, "1 run: all whole\n", "")


@pytest.mark.parametrize(
    ("name", "change", "words", "noticed"),
    [
        ("model.safetensors", Path.unlink, "is missing", True),
        ("model.safetensors", cut, "is damaged, or not a file of lora-cl", True),
        ("model.safetensors", turned, "is damaged, or not a file of lora-cl", False),
        ("model.safetensors", rewritten, "is not the file that the run wrote, by its record", True),
        (ADAPTER, Path.unlink, "is missing", True),
        (ADAPTER, turned, "is damaged, or not a file of lora-cl", False),
        (ADAPTER, rewritten, "is not the file that the run wrote, by its record", True),
        (ADAPTER, pipe, "cannot be read: it is a pipe, not a file", True),
        ("adapters/task-001/adapter_config.json", Path.unlink, "is missing", False),
        ("adapters/task-001/adapter_config.json", turned, "is damaged: it is not what", False),
        ("config.yaml", Path.unlink, "is missing", False),
        ("config.yaml", turned, "is damaged: it is not the config of the run", False),
        ("events.jsonl", pipe, "is a pipe, where a run writes a file", False),
    ],
)
def test_what_is_wrong_is_said(
    name: str,
    change: Callable[[Path], None],
    words: str,
    noticed: bool,
    results: Path,
    tmp_path: Path,
) -> None:
    place = tmp_path / "r"
    shutil.copytree(results, place)
    folder = of(place, "a")
    change(folder / name)
    code, out, err = ask("fsck", place)
    assert (code, err) == (1, "")
    fault, summary = out.splitlines()
    assert fault.startswith(f"{folder / name}: {words}")
    assert summary == "2 runs: 1 fault in 1 of them"
    result = read_result(folder)
    assert result is not None
    assert (first_fault(folder, result) is not None) == noticed


def test_foreign_and_left_over_files_are_said(results: Path, tmp_path: Path) -> None:
    place = tmp_path / "r"
    shutil.copytree(results, place)
    a, b = of(place, "a"), of(place, "b")
    shutil.rmtree(a / "adapters" / "task-001")
    shutil.copytree(b / "adapters" / "task-001", a / "adapters" / "task-001")
    shutil.copytree(b / "adapters" / "task-001", b / "adapters" / "task-007")
    (b / "checkpoint").mkdir()
    (b / "checkpoint" / "00000003.safetensors").write_bytes(b"")
    (b / ".config.yaml.17.tmp").write_bytes(b"")
    b.with_name(f".{b.name}.anew").mkdir()
    for mine in ("notes.txt", "adapters/task-000.bak", "checkpoint/mine"):
        (b / mine).write_text("mine")
    code, out, _ = ask("fsck", place)
    assert code == 1
    theirs = read_result(b)
    assert theirs is not None
    assert out.splitlines() == [
        f"{a / ADAPTER}: is foreign: it belongs to run {theirs['hash'][:12]}, not "
        f"{read_result(a)['hash'][:12]}",  # type: ignore[index]
        f"{b / 'checkpoint'}: is left over",
        f"{b / '.config.yaml.17.tmp'}: is left over, half written",
        f"{b / 'adapters' / 'task-007'}: is left over, by the record",
        f"{b.with_name(f'.{b.name}.anew')}: is left over from doing the run again, or that is "
        "under way",
        "2 runs: 5 faults in 2 of them",
    ]


def test_a_record_that_is_none_keeps_no_file_from_being_checked(
    results: Path, tmp_path: Path
) -> None:
    place = tmp_path / "r"
    shutil.copytree(results, place)
    folder = of(place, "a")
    (folder / "result.json").write_bytes(b"{")
    turned(folder / ADAPTER)
    code, out, _ = ask("fsck", folder)
    assert code == 1
    assert [line.partition(": ")[0] for line in out.splitlines()[:2]] == [
        str(folder / "result.json"),
        str(folder / ADAPTER),
    ]


def test_an_unfinished_run_is_whole_if_its_files_are(results: Path, tmp_path: Path) -> None:
    place = tmp_path / "r"
    shutil.copytree(results, place)
    folder = of(place, "a")
    (folder / "result.json").unlink()
    (folder / "checkpoint").mkdir()
    saved = folder / "checkpoint" / "00000003.safetensors"
    shutil.copy(folder / "model.safetensors", saved)
    assert ask("fsck", place)[0] == 0
    turned(saved)
    assert ask("fsck", place)[1].startswith(f"{saved}: is damaged")
    saved.unlink()
    append_event(folder, "run_started", config={"name": "other"})
    assert ask("fsck", place)[1].startswith(f"{folder / 'config.yaml'}: is damaged")


def test_a_record_of_an_older_version_names_no_files(results: Path, tmp_path: Path) -> None:
    place = tmp_path / "r"
    shutil.copytree(results, place)
    folder = of(place, "a")
    record = json.loads((folder / "result.json").read_bytes())
    del record["checksum"], record["files"]
    write_result(folder, record)
    assert ask("fsck", place)[0] == 0
    (folder / ADAPTER).unlink()
    assert ask("fsck", place)[1].startswith(f"{folder / ADAPTER}: is missing")
    record["files"] = {"../../x": "y", "model.safetensors": 7}
    write_result(folder, record)
    said = ask("fsck", place)[1]
    assert "model.safetensors: is not the file that the run wrote" in said
    assert "result.json: names a file '../../x', which no run writes" in said


def test_it_changes_nothing_and_needs_a_run(results: Path, tmp_path: Path) -> None:
    place = tmp_path / "r"
    shutil.copytree(results, place)
    before = {path: path.stat() for path in [place, *place.rglob("*")]}
    assert ask("fsck", place)[0] == 0
    after = {path: path.stat() for path in [place, *place.rglob("*")]}
    assert after.keys() == before.keys()
    assert all(after[path].st_mtime_ns == before[path].st_mtime_ns for path in before)
    (tmp_path / "empty").mkdir()
    assert ask("fsck", tmp_path / "empty") == (2, "", f"error: no runs in {tmp_path / 'empty'}\n")
    assert ask("fsck", tmp_path / "none")[0] == 2
    (place / "away").symlink_to(tmp_path / "empty")
    code, out, _ = ask("fsck", place)
    assert code == 1
    assert out.endswith("2 runs: all whole; 1 place was not looked into\n")
