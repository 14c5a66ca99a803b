"""A few files of a run replaced by what should not be there; all of them in tests/soak."""

from __future__ import annotations

from pathlib import Path

import hostile_cases as hostile
import pytest

from lora_cl.config import RunConfig

Two = tuple[Path, tuple[RunConfig, RunConfig]]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Two:
    place = tmp_path_factory.mktemp("whole")
    return place, hostile.runs_of_two(place)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("name", "change", "command", "words"),
    [
        ("result.json", hostile.pipe, "diff", "result.json: cannot be read: it is a pipe"),
        ("result.json", hostile.sparse, "diff", "it has 6,000,000,000 bytes, more than"),
        ("result.json", hostile.of_another_run, "fsck", "result.json: is foreign"),
        ("events.jsonl", hostile.huge_number, "run", "done"),
        ("events.jsonl", hostile.link, "run", "events.jsonl: is a link"),
        ("model.safetensors", hostile.sparse, "load_run", "model.safetensors: is damaged"),
        ("config.yaml", hostile.pipe, "validate", "config.yaml: is empty"),
        (".lock", hostile.directory, "run", ".lock: is a directory"),
        ("checkpoint/00000001.safetensors", hostile.link, "run", "done"),
    ],
)
def test_one_bad_file_stops_nobody(
    name: str, change: object, command: str, words: str, two: Two, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    assert words in hostile.try_all(*two, name, change, outside)[command]
