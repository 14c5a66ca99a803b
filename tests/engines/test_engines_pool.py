"""Many runs: the same bytes whatever the number of processes, and one's failure is its own."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from process_cases import (
    command,
    finished,
    python,
    session_of,
    wait_until,
    workers_of,
)

from lora_cl import api
from lora_cl.config import parse_config
from lora_cl.records.folders import Record, load_records, read_record
from lora_cl.running import machine
from lora_cl.testing.runs import log, outcome

pytestmark = pytest.mark.commands

TINY = """
name: tiny
benchmark: {name: split, dataset: {name: synthetic, classes: 6}, tasks: 3}
model: {hidden: [12]}
train: {epochs: 2, batch_size: 16}
methods: {full: , lora: {rank: 2}, frozen: }
"""

LONG = TINY.replace("epochs: 2", "epochs: 60").replace("frozen: ", "joint: ")


def do(text: str, results: Path, *overrides: str, **settings: Any) -> list[Record]:
    experiment = parse_config(text, "test.yaml", overrides)
    return api.run(experiment, results=results, progress=False, **settings)


def test_any_number_of_jobs_gives_the_same_bytes(tmp_path: Path) -> None:
    found: dict[int, Sequence[Any]] = {}
    for jobs in (0, 1, 2):
        records = do(TINY, tmp_path / str(jobs), "seeds=2", jobs=jobs)
        assert [record.status for record in records] == ["done"] * 6
        found[jobs] = [outcome(record.folder) for record in records]
    assert found[0] == found[1] == found[2]
    labels = [(record.label, record.seed) for record in records]
    assert labels == [(label, seed) for seed in (0, 1) for label in ("full", "lora", "frozen")]


def test_the_last_runs_take_turns(tmp_path: Path) -> None:
    """Three runs on two cores end together; waiting is not training, and changes no bit."""
    records = do(LONG, tmp_path / "turns", "train.epochs=100", jobs=2)
    assert [record.status for record in records] == ["done"] * 3
    logs = [log(record.folder) for record in records]
    started = [events[0]["time"] for events in logs]
    done = [events[-1]["time"] for events in logs]
    assert max(started) < min(done)
    waited = 0.0
    for record, begin, end in zip(records, started, done, strict=True):
        cost = record.result["cost"]
        waited += end - begin - cost["train_seconds"] - cost["eval_seconds"]
        assert cost["train_seconds"] > 0.4  # Long enough to have given way.
    assert waited > 0.3
    alone = do(LONG, tmp_path / "alone", "train.epochs=100", jobs=0)
    assert [outcome(r.folder) for r in records] == [outcome(r.folder) for r in alone]


def test_finished_runs_are_skipped_and_forced_ones_repeated(tmp_path: Path) -> None:
    for force, starts in ((False, 1), (False, 1), (True, 1)):
        records = do(TINY, tmp_path, jobs=0, force=force)
        for record in records:
            kinds = [event["event"] for event in log(record.folder)]
            assert kinds.count("run_started") == starts
    times = [record.result["provenance"]["started"] for record in records]
    assert times[0] > log(records[0].folder)[0]["time"] - 1


@pytest.mark.parametrize("jobs", [0, 2])
def test_a_diverging_run_is_recorded_and_the_others_go_on(tmp_path: Path, jobs: int) -> None:
    bad = TINY.replace("name: tiny", "name: bad").replace("frozen: ", "")
    bad = bad.replace("batch_size: 16", "batch_size: 16, optimizer: sgd, lr: 1e30")
    experiments = [parse_config(text, "test.yaml") for text in (bad, TINY)]
    records = api.run(experiments, results=tmp_path, jobs=jobs, progress=False)
    assert [record.status for record in records] == ["diverged"] * 2 + ["done"] * 3
    for record in records[:2]:
        error = record.result["error"]
        assert error["kind"] == "DivergedError"
        assert error["task"] == 0
        assert 1 <= error["step"] <= 16
        assert error["message"].endswith(f"at task 0, step {error['step']}")
        assert not (record.folder / "checkpoint").exists()
    again = api.run(experiments, results=tmp_path, jobs=jobs, progress=False)
    assert [record.result for record in again] == [record.result for record in records]


def test_weights_lost_in_the_last_step_are_noticed(tmp_path: Path) -> None:
    """One step a task: its loss is a number, the weights after it are not."""
    overrides = ["train={iterations: 1, optimizer: sgd, lr: 1e38, batch_size: 200}"]
    (record, *_) = do(TINY, tmp_path, *overrides, "benchmark.dataset.separation=1e9", jobs=0)
    assert record.status == "diverged"
    assert record.result["error"]["step"] == 1


def test_provenance_is_complete(tmp_path: Path) -> None:
    weights = do(TINY, tmp_path / "base", jobs=0)[0].folder / "model.safetensors"
    machine.versions.cache_clear()
    (record, *_) = do(TINY, tmp_path, f"base.weights={weights}", "threads=2", "seeds=[7]", jobs=0)
    result = read_record(record.folder).result
    provenance = result["provenance"]
    assert result["config"]["train"]["lr"] == 0.001
    assert result["config"]["base"]["weights"] == str(weights)
    assert result["seed"] == 7
    assert result["hash"][:8] == record.folder.name.partition("-")[2]
    versions = provenance["versions"]
    assert versions["torch"] == torch.__version__.partition("+")[0]
    assert {"lora-cl", "python", "torchvision", "numpy", "safetensors"} <= versions.keys()
    root = Path(__file__).parents[2]
    if (root / ".git").exists():
        git = ["git", "-C", str(root)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        assert versions["git_commit"] == head.stdout.strip()
        assert isinstance(versions["git_dirty"], bool)
    assert provenance["device"] == "cpu"
    assert provenance["system"] == "Linux" or sys.platform != "linux"
    assert provenance["threads"] == 2
    assert provenance["data"].keys() == {"benchmark.dataset", "base.weights"}
    assert provenance["data"]["benchmark.dataset"].startswith("sha256:")
    assert provenance["sessions"] == 1
    assert provenance["started"] == log(record.folder)[0]["time"]
    assert 0 < provenance["seconds"] < 60


# The command as a process


def test_two_commands_at_once_share_the_runs_and_readers_see_whole_records(tmp_path: Path) -> None:
    config, results = tmp_path / "c.yaml", tmp_path / "r"
    config.write_text(TINY.replace("epochs: 2", "epochs: 20") + "seeds: 2\n")
    arguments = ("run", config, "--results", results, "--jobs", "1")
    seen: set[str] = set()
    looks = 0
    with command(*arguments) as one, command(*arguments) as two:
        assert wait_until(results.exists, 60)
        while one.poll() is None or two.poll() is None:
            seen |= {record.status for record in load_records([results])}
            looks += 1
        ended = [(p.communicate(timeout=60), p.returncode) for p in (one, two)]
    assert [code for _, code in ended] == [0, 0], ended
    assert looks > 20
    assert "unfinished" in seen
    assert seen <= {"unfinished", "done"}
    records = load_records([results])
    assert [record.status for record in records] == ["done"] * 6
    for record in records:
        kinds = [event["event"] for event in log(record.folder)]
        assert (kinds.count("run_started"), kinds.count("done")) == (1, 1)


def test_a_killed_worker_fails_its_run_alone(tmp_path: Path) -> None:
    config, results = tmp_path / "c.yaml", tmp_path / "r"
    config.write_text(LONG)
    with command("run", config, "--results", results, "--jobs", "2") as process:

        def under_way() -> bool:
            checkpoints = {path.parent for path in results.rglob("checkpoint/*.safetensors")}
            return len(workers_of(process)) == len(checkpoints) == 3

        assert wait_until(under_way, 60)
        os.kill(random.Random(0).choice(workers_of(process)), signal.SIGKILL)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 1, err
        assert wait_until(lambda: not session_of(process.pid), 5)
    records = {record.label: record for record in load_records([results])}
    assert sorted(record.status for record in records.values()) == ["done", "done", "failed"]
    (lost,) = [record for record in records.values() if record.status == "failed"]
    error = lost.result["error"]
    assert error["kind"] == "WorkerLost"
    assert error["message"] == "the worker process was ended by SIGKILL (out of memory?)"
    assert isinstance(error["task"], int)
    assert isinstance(error["step"], int)
    assert "SIGKILL" in err
    assert "Traceback" not in err + out
    table = finished("compare", results)[1]
    (line,) = [line for line in table.splitlines() if "SIGKILL" in line]
    assert lost.label in line
    assert "failed" in line
    code, _, err = finished("run", config, "--results", results, "--jobs", "0")
    assert code == 0, err
    assert {record.status for record in load_records([results])} == {"done"}
    starts = [e["event"] for e in log(lost.folder)].count("run_started")
    assert starts == 2
    whole = {r.label: outcome(r.folder) for r in do(LONG, tmp_path / "whole", jobs=0)}
    assert {r.label: outcome(r.folder) for r in load_records([results])} == whole


def test_a_file_system_that_takes_no_more_ends_the_run_in_a_line(tmp_path: Path) -> None:
    """A limit on the size of files: the record still fits, checkpoints do not."""
    config, results = tmp_path / "c.yaml", tmp_path / "r"
    config.write_text(TINY.replace("[12]", "[200]"))
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)); "
        "sys.argv = ['lora-cl', *sys.argv[1:]]; from lora_cl.cli import main; main()"
    )
    ended = python(limited, "run", config, "--results", results, "--jobs", "0")
    assert ended.returncode == 1
    assert ended.stderr.count("File too large") == 3
    assert "Traceback" not in ended.stderr
    assert [record.status for record in load_records([results])] == ["failed"] * 3
    assert not list(results.rglob("*.tmp"))
    assert {record.status for record in do(config.read_text(), results, jobs=0)} == {"done"}
