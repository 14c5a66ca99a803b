"""`diff` names the first thing in which two runs differ."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from lora_cl.errors import ResultsError
from lora_cl.records.events import append_event
from lora_cl.records.results import write_result
from lora_cl.report import differences

RESULT: dict[str, Any] = {
    "schema_version": 1,
    "status": "done",
    "hash": "aaaaaaaa",
    "config": {
        "name": "x",
        "train": {"lr": 0.1, "epochs": 2},
        "methods": {"lora": {"rank": 2, "method": "lora"}},
        "seeds": [0],
        "checkpoint_seconds": 30.0,
    },
    "accuracy_matrix": [[1.0, None], [0.5, 0.25]],
    "provenance": {
        "versions": {"torch": "2.4", "git_commit": "c0ffee", "git_dirty": False},
        "device": "cpu",
        "threads": 1,
        "data": {"benchmark.dataset": "sha256:1"},
        "started": 1.0,
        "seconds": 2.0,
        "sessions": 1,
    },
}
LOSSES = {(0, 0, 1): 0.75, (0, 0, 2): 0.5, (1, 0, 1): 0.25, (1, 1, 1): 0.125}


def run(folder: Path, losses: dict[tuple[int, int, int], float] = LOSSES, **changes: Any) -> Path:
    """A run folder; ``changes`` are values by dotted key, with __ for the dot."""
    result = copy.deepcopy(RESULT)
    for key, value in changes.items():
        *path, last = key.split("__")
        target = result
        for part in path:
            target = target[part]
        target[last] = value
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("name: x\n")
    for (task, fit, epoch), loss in losses.items():
        append_event(folder, "epoch", task=task, fit=fit, epoch=epoch, loss=loss)
    write_result(folder, result)
    return folder


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"provenance__started": 9.0, "provenance__seconds": 1.0, "provenance__sessions": 4}, []),
        ({"config__checkpoint_seconds": 1.0}, []),
        ({"hash": "b", "config__train__lr": 0.01}, ["config: train.lr: 0.1 / 0.01"]),
        ({"hash": "b", "config__seeds": [1]}, ["config: seeds.0: 0 / 1"]),
        (
            {"hash": "b", "config__train": {"lr": 0.1, "clip": None, "epochs": 3}},
            ["config: train.epochs: 2 / 3"],
        ),
        (
            {"hash": "b", "config__methods": {"full": {"method": "full"}}},
            ["config: methods.label: 'lora' / 'full'"],
        ),
        (
            {"provenance__versions": {"torch": "2.5", "git_commit": "c0ffee", "git_dirty": True}},
            ["environment: versions.torch: '2.4' / '2.5'"],
        ),
        (
            {"provenance__versions__git_dirty": True},
            ["environment: versions.git_dirty: False / True"],
        ),
        ({"provenance__device": "cuda"}, ["environment: device: 'cpu' / 'cuda'"]),
        (
            {"provenance__data": {"benchmark.dataset": "sha256:2"}},
            ["data: benchmark.dataset: 'sha256:1' / 'sha256:2'"],
        ),
        (
            {"accuracy_matrix": [[1.0, None], [0.75, 0.5]]},
            ["accuracy matrix: after task 1, on task 0: 0.5 / 0.75"],
        ),
        (
            {"accuracy_matrix": [[1.0, 0.0], [0.5, 0.25]]},
            ["accuracy matrix: after task 0, on task 1: None / 0.0"],
        ),
        ({"accuracy_matrix": None}, ["accuracy matrix: after task 0, on task 0: 1.0 / nothing"]),
        (
            {"validation_matrix": [[0.5, None], [0.5, 0.5]]},
            ["validation matrix: after task 0, on task 0: nothing / 0.5"],
        ),
        (
            {"untrained_accuracy": [None, 0.25]},
            ["accuracy before learning: on task 0: nothing / None"],
        ),
        (
            {"confusion_matrices": [[[2, 0], [1, 1]]]},
            ["confusion: class 0 taken for 0: nothing / 2"],
        ),
        ({"provenance__changed_between_sessions": []}, []),
        (
            {"provenance__changed_between_sessions": ["torch"]},
            ["environment: changed_between_sessions.0: nothing / 'torch'"],
        ),
        ({"status": "failed"}, ["status: 'done' / 'failed'"]),
        (
            {"config__name": "evil\x1b[31m\n", "hash": "b"},
            ["config: name: 'x' / 'evil\\x1b[31m\\n'"],
        ),
    ],
)
def test_first_difference(changes: dict[str, Any], expected: list[str], tmp_path: Path) -> None:
    found = differences(run(tmp_path / "a"), run(tmp_path / "b", **changes))
    assert found == expected
    assert all(line.isprintable() for line in found)


def test_what_was_taken_for_what_is_compared(tmp_path: Path) -> None:
    one, other = [[2, 0], [1, 1]], [[2, 0], [0, 2]]
    a = run(tmp_path / "a", confusion_matrices=[one])
    b = run(tmp_path / "b", confusion_matrices=[other])
    assert differences(a, b) == ["confusion: class 1 taken for 0: 1 / 0"]
    c = run(tmp_path / "c", confusion_matrices=[one, one])
    d = run(tmp_path / "d", confusion_matrices=[one, other])
    assert differences(c, d) == ["confusion: matrix 1, class 1 taken for 0: 1 / 0"]


def test_losses_part_at_the_first_task_and_epoch(tmp_path: Path) -> None:
    a = run(tmp_path / "a")
    later = run(tmp_path / "b", {**LOSSES, (0, 0, 2): 0.5000001, (1, 0, 1): 9.0})
    assert differences(a, later) == ["loss: task 0, epoch 2: 0.5 / 0.5000001"]
    fit = run(tmp_path / "c", {**LOSSES, (1, 1, 1): 1.0})
    assert differences(a, fit) == ["loss: task 1, fit 1, epoch 1: 0.125 / 1.0"]
    short = run(tmp_path / "d", dict(list(LOSSES.items())[:2]))
    found = differences(a, short)
    assert found == [
        "loss: the last one logged is of task 1, fit 1, epoch 1 / task 0, fit 0, epoch 2"
    ]
    assert differences(run(tmp_path / "e", {}), run(tmp_path / "f", {})) == []


def test_all_kinds_are_told_in_order_of_cause(tmp_path: Path) -> None:
    b = run(
        tmp_path / "b",
        {**LOSSES, (0, 0, 1): 1.0},
        hash="b",
        config__train__lr=0.2,
        provenance__threads=2,
        provenance__data={},
        accuracy_matrix=[[0.0, None], [0.5, 0.25]],
    )
    found = differences(run(tmp_path / "a"), b)
    kinds = [line.partition(":")[0] for line in found]
    assert kinds == ["config", "environment", "data", "loss", "accuracy matrix"]


def test_what_was_done_again_counts_as_it_was_last(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a"), run(tmp_path / "b", {(0, 0, 1): 7.0})
    with (b / "events.jsonl").open("ab") as file:
        file.write(b'{"event": "epoch", "ta')  # torn by a crash
    for (task, fit, epoch), loss in LOSSES.items():
        append_event(b, "epoch", task=task, fit=fit, epoch=epoch, loss=loss)
    assert differences(a, b) == []


def test_an_unfinished_run_is_compared_by_the_config_in_its_log(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a"), tmp_path / "seed0-0b"
    b.mkdir()
    (b / "config.yaml").write_text("name: z\n")
    append_event(b, "run_started", config={**RESULT["config"], "name": "y"})
    assert differences(a, b) == [
        "config: name: 'x' / 'y'",
        "environment: versions.torch: '2.4' / nothing",
        "data: benchmark.dataset: 'sha256:1' / nothing",
        "loss: the last one logged is of task 1, fit 1, epoch 1 / nothing",
        "status: 'done' / 'unfinished'",
        "accuracy matrix: after task 0, on task 0: 1.0 / nothing",
    ]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    a = run(tmp_path / "a")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "config.yaml").write_text("model: mine\n")
    for folder in (tmp_path, mine):
        with pytest.raises(ResultsError, match="is not a run folder"):
            differences(a, folder)
    damaged = run(tmp_path / "seed0-0b")
    (damaged / "result.json").write_bytes(b"{")
    with pytest.raises(ResultsError, match=r"result.json: is not a whole JSON file"):
        differences(a, damaged)


def test_no_config_keeps_it_busy(tmp_path: Path) -> None:
    """The YAML of a run folder is not read, and no record is too wide or too deep."""
    a = run(tmp_path / "a")
    unfinished = tmp_path / "seed0-0b"
    unfinished.mkdir()
    bomb = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10))
    (unfinished / "config.yaml").write_text(f"a0: &a0 x\n{bomb}\n")
    assert "status: 'done' / 'unfinished'" in differences(a, unfinished)
    wide = run(tmp_path / "wide", hash="b", config__train={str(i): i for i in range(20_001)})
    with pytest.raises(ResultsError, match="more than 20,000 options"):
        differences(a, wide)
    deep: Any = 1
    for _ in range(300):
        deep = {"k": deep}
    (found,) = differences(a, run(tmp_path / "deep", hash="b", config__train=deep))
    assert found.startswith("config: train.lr: 0.1 / nothing")
