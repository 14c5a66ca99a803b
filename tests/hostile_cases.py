"""Each file of a run folder replaced by what should not be there, and every command that reads."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from process_cases import ask

from lora_cl import api
from lora_cl.config import RunConfig
from lora_cl.errors import LoraClError
from lora_cl.records.results import read_result
from lora_cl.report import FORMATS
from lora_cl.running.runner import Where, run_one
from lora_cl.testing.runs import one_run

FILES = (
    "config.yaml",
    "result.json",
    "events.jsonl",
    "model.safetensors",
    "adapters/task-000/adapter_model.safetensors",
    "adapters/task-000/adapter_config.json",
    "checkpoint/00000001.safetensors",
    ".lock",
    "traceback.txt",
)


def empty(path: Path, other: Path, outside: Path) -> None:
    path.write_bytes(b"")


def huge_number(path: Path, other: Path, outside: Path) -> None:
    number = "1" + "0" * 400
    path.write_text(f'{{"time": {number}, "event": "run_started", "schema_version": 1e999}}\n')


def link(path: Path, other: Path, outside: Path) -> None:
    path.symlink_to(outside)


def pipe(path: Path, other: Path, outside: Path) -> None:
    os.mkfifo(path)


def of_another_run(path: Path, other: Path, outside: Path) -> None:
    if other.is_file():
        shutil.copy(other, path)


def other_version(path: Path, other: Path, outside: Path) -> None:
    path.write_text('{"schema_version": 99, "status": "done", "checksum": "x"}')


def directory(path: Path, other: Path, outside: Path) -> None:
    path.mkdir()


def sparse(path: Path, other: Path, outside: Path) -> None:
    with path.open("wb") as file:
        file.truncate(6 * 10**9)


def junk(path: Path, other: Path, outside: Path) -> None:
    path.write_bytes(bytes(range(256)) * 400)


CHANGES: tuple[Callable[[Path, Path, Path], None], ...] = (
    empty,
    huge_number,
    link,
    pipe,
    of_another_run,
    other_version,
    directory,
    sparse,
    junk,
)


def runs_of_two(results: Path) -> tuple[RunConfig, RunConfig]:
    """Two runs, of the labels a and b; a is left with a checkpoint and a traceback as well."""
    runs = []
    for label, rank in (("a", 1), ("b", 2)):
        run = one_run(
            f"{label}: {{method: lora, rank: {rank}}}",
            "task",
            "train.epochs=1",
            "benchmark.tasks=2",
        )
        assert run is not None
        assert run_one(run, Where(results)).status == "done"
        runs.append(run)
    folder = results / runs[0].folder
    (folder / "checkpoint").mkdir()
    shutil.copy(folder / "model.safetensors", folder / "checkpoint" / "00000001.safetensors")
    (folder / "traceback.txt").write_text("")
    return runs[0], runs[1]


def rows(results: Path) -> dict[str, Any]:
    """By label, as `compare` tells them."""
    code, out, err = ask("compare", results, "--format", "json")
    assert (code, err) == (0, "")
    return {row["label"]: row for row in json.loads(out)}


def lines_of_b(results: Path, format_name: str) -> list[str]:
    """Its rows in one of the other formats, without what marks the best."""
    code, out, err = ask("compare", results, "--format", format_name)
    assert (code, err) == (0, "")
    plain = re.sub(r"\*|\\textbf|[{}]", " ", out)  # The best may be another one without a.
    lines = (" ".join(line.split()) for line in plain.splitlines())
    return [line for line in lines if re.match(r"(\| |tiny,)?b[ ,]", line)]


def try_all(
    results: Path, runs: tuple[RunConfig, RunConfig], name: str, change: Any, outside: Path
) -> dict[str, str]:
    """Changes one file of run a in a copy of ``results``; what each command made of it."""
    run, sound = runs
    place = outside.parent / f"{change.__name__}-{name.replace('/', '-')}"
    shutil.copytree(results, place)
    folder, other = place / run.folder, place / sound.folder
    path = folder / name
    path.unlink()
    change(path, other / name, outside)
    whole, told = rows(results), {}
    found = rows(place)
    assert json.dumps(found["b"]) == json.dumps(whole["b"])
    assert found["a"]["accuracy_matrix_mean"] in (None, whole["a"]["accuracy_matrix_mean"])
    for format_name in FORMATS:
        if format_name != "json":
            told_of_b = lines_of_b(place, format_name)
            assert told_of_b == lines_of_b(results, format_name)
            assert len(told_of_b) >= 1
    for arguments in (
        ("diff", folder, other),
        ("fsck", place),
        ("validate", folder / "config.yaml"),
    ):
        code, out, err = ask(*arguments)
        assert code in (0, 1, 2)
        assert (code == 2) == err.startswith("error: ")
        told[str(arguments[0])] = out + err
    try:
        api.load_run(folder)
        told["load_run"] = "answers"
    except LoraClError as error:
        told["load_run"] = str(error)
        assert str(folder) in told["load_run"]
    assert len(api.load_results(place)) == 2
    ended = run_one(run, Where(place))
    assert ended.status in ("done", "failed")
    assert ended.status == "done" or name.split("/")[-1] in str(ended.message)
    told["run"] = str(ended.message or "done")
    if ended.status == "done":
        record = read_result(folder)
        assert record is not None
        assert record["accuracy_matrix"] == whole["a"]["accuracy_matrix_mean"]
    assert json.dumps(rows(place)["b"]) == json.dumps(whole["b"])
    assert outside.read_bytes() == b"precious"
    shutil.rmtree(place)
    return told


def cases() -> Iterator[tuple[str, Any]]:
    for name in FILES:
        for change in CHANGES:
            yield name, change
