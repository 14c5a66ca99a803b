"""What is a run, what is not, and what is said of the places that are not looked into."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import pytest

from lora_cl import api
from lora_cl.records import events
from lora_cl.records.events import EVENTS, EventLog, append_event, read_events
from lora_cl.records.folders import CONFIG, is_run, load_records, read_record, run_folders
from lora_cl.records.results import RESULT, write_result

RECORD = {"schema_version": 1, "status": "done", "hash": "0123abcd" * 8, "seed": 3}


def run(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text("name: x\n")
    write_result(folder, {**RECORD, **changes})
    return folder


def unfinished(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text("name: x\n")
    append_event(folder, "run_started")
    return folder


def test_a_run_is_known_by_what_is_ours(tmp_path: Path) -> None:
    ours = [
        run(tmp_path / "x" / "lora" / "seed3-0123abcd"),
        run(tmp_path / "x" / "renamed"),
        unfinished(tmp_path / "x" / "lora" / "seed4-0123abcd"),
        unfinished(tmp_path / "x" / "renamed-too"),
    ]
    named = tmp_path / "x" / "lora" / "seed5-0123abcd"
    named.mkdir()
    (named / RESULT).mkdir()  # Whatever it is: here a result belongs.
    for place in (tmp_path, tmp_path / "x", tmp_path / "mine"):
        place.mkdir(exist_ok=True)
        (place / CONFIG).write_text("model: mine\n")
        (place / RESULT).write_text(json.dumps({"accuracy": 0.5}))
        (place / EVENTS).write_text('{"event": "theirs"}\n')
        assert not is_run(place)
    run(tmp_path / ".ipynb_checkpoints" / "seed3-0123abcd")
    run(tmp_path / "x" / "lora" / ".seed3-0123abcd.anew")
    (tmp_path / "seed1-00").mkdir()
    assert run_folders([tmp_path]) == sorted([*ours, named])
    assert all(map(is_run, ours))
    (ours[1] / RESULT).write_bytes((ours[1] / RESULT).read_bytes()[:90])
    assert read_record(ours[1]).status == "unreadable"
    assert ours[1] in run_folders([tmp_path])


def test_a_run_is_named_by_its_folder_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = unfinished(tmp_path / "digits" / "lora" / "seed4-0123abcd")
    monkeypatch.chdir(folder)
    (record,) = load_records([Path()])
    assert (record.experiment, record.label, record.seed) == ("digits", "lora", 4)


def test_links_are_not_followed_and_not_passed_over_in_silence(tmp_path: Path) -> None:
    there = run(tmp_path / "r" / "x" / "lora" / "seed3-0123abcd")
    run(tmp_path / "elsewhere" / "x" / "lora" / "seed3-0123abcd")
    (tmp_path / "r" / "latest").symlink_to(there)
    (tmp_path / "r" / "adapters").symlink_to(there / "adapters")
    (there / "adapters").mkdir()
    (tmp_path / "r" / "round").symlink_to(tmp_path / "r")
    (tmp_path / "r" / "nowhere").symlink_to("none")
    (tmp_path / "r" / "far").symlink_to(tmp_path / "elsewhere")
    said: list[str] = []
    assert run_folders([tmp_path / "r"], said.append) == [there]
    assert said == [f"{tmp_path}/r/far: is a link and not followed; name it to have it looked into"]
    said.clear()
    found = run_folders([tmp_path / "r", tmp_path / "r" / "far"], said.append)
    assert [folder.parts[-4] for folder in found] == ["far", "r"]
    assert said == []
    with pytest.warns(UserWarning, match="far: is a link and not followed"):
        assert len(api.load_results(tmp_path / "r")) == 1


def test_what_cannot_be_listed_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = run(tmp_path / "x" / "lora" / "seed3-0123abcd")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    scandir = os.scandir

    def as_for_others(folder: Path) -> object:  # Nothing is closed to root.
        if folder == closed:
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    if os.geteuid() == 0:
        monkeypatch.setattr(os, "scandir", as_for_others)
    said: list[str] = []
    assert run_folders([tmp_path], said.append) == [there]
    assert said == [f"{closed}: cannot be listed: Permission denied"]


def test_the_record_of_another_run_is_not_this_one(tmp_path: Path) -> None:
    folder = run(tmp_path / "digits" / "lora" / "seed7-ffffffff")
    record = read_record(folder)
    assert record.status == "unreadable"
    assert (record.experiment, record.label, record.seed) == ("digits", "lora", 7)
    assert record.result["error"]["message"] == (
        f"{folder / RESULT}: is foreign: it is the record of run 0123abcd0123"
    )


@pytest.mark.parametrize("seed", [True, -1, 1.0, "x", None])
def test_what_is_no_seed(seed: object, tmp_path: Path) -> None:
    assert read_record(run(tmp_path / "a", seed=seed)).seed == -1


# The log


def test_every_line_of_a_log_is_looked_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / EVENTS).write_bytes(b"junk\n" * 900)
    log = EventLog(tmp_path)
    assert list(log.new()) == []
    assert (log.offset, log.junk) == (4500, 900)
    looked: list[bytes] = []
    judge = events._event
    monkeypatch.setattr(events, "_event", lambda line: (looked.append(line), judge(line))[1])
    append_event(tmp_path, "one")
    assert [event["event"] for event in log.new()] == ["one"]
    assert list(log.new()) == []
    assert len(looked) == 1
    with (tmp_path / EVENTS).open("ab") as file:
        file.write(b"junk\n" * 100_000)
    append_event(tmp_path, "two")
    assert list(log.new()) == []
    assert len(looked) == 101  # A thousand in all, and the log is given up.


def test_a_line_without_end_is_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_LINE", 100)
    monkeypatch.setattr(events, "MAX_LOG", 1000)
    (tmp_path / EVENTS).write_bytes(b'{"event": "' + b"x" * 300 + b'"}\n{"event": "y"}\n')
    assert [event["event"] for event, _ in read_events(tmp_path)] == ["y"]
    (tmp_path / EVENTS).write_bytes(b'{"event": "x"}\n' * 1000)
    assert sum(1 for _ in read_events(tmp_path)) == 67  # 66 lines are 990 bytes.


@pytest.mark.parametrize(
    "moment",
    ["1" + "0" * 400, "1e999", "-1e308", "1e308", "NaN", "true", "9223372036854775808"],
)
def test_a_time_that_no_clock_shows_is_no_event(moment: str, tmp_path: Path) -> None:
    (tmp_path / EVENTS).write_text(f'{{"time": {moment}, "event": "run_started"}}\n')
    append_event(tmp_path, "one")
    assert [event["event"] for event, _ in read_events(tmp_path)] == ["one"]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.truncate(path, 2**40)])
def test_a_log_that_is_none_has_no_events(make, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / EVENTS
    with warnings.catch_warnings():
        if make not in (os.mkfifo, os.mkdir):
            path.touch()
        make(path)
        assert list(read_events(tmp_path)) == []
