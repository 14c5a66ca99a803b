"""What was taken for what: small enough, well-formed, and at one with the accuracies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from process_cases import ask

from lora_cl.records.confusion import confusion, is_kept
from lora_cl.records.results import read_result, write_result
from lora_cl.running.runner import Where, run_one
from lora_cl.testing.runs import one_run

TOGETHER = [[[3, 1, 0], [0, 2, 2], [1, 0, 1]]]
"""Tasks of two classes and of one: 5 of 8 samples right, and 1 of 2."""
APART = [[[3, 1], [0, 4]], [[2]]]


def record(matrices: Any, **changes: Any) -> dict[str, Any]:
    return {
        "scenario": "class",
        "n_tasks": 2,
        "tasks": [{"name": "one", "classes": ["a", "b"]}, {"name": "two", "classes": ["c"]}],
        "accuracy_matrix": [[1.0, None], [5 / 8, 0.5]],
        "confusion_matrices": matrices,
    } | changes


def test_how_large_they_may_be() -> None:
    assert is_kept([128, 128], together=True)
    assert not is_kept([128, 129], together=True)
    assert is_kept([128] * 4, together=False)
    assert not is_kept([128] * 5, together=False)


def test_one_for_all_classes_or_one_for_each_task() -> None:
    (found,) = confusion(record(TOGETHER)) or []
    assert found.tolist() == TOGETHER[0]
    apart = record(APART, scenario="task", accuracy_matrix=[[1.0, None], [7 / 8, 1.0]])
    assert [one.tolist() for one in confusion(apart) or []] == APART
    assert confusion(record(None)) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"confusion_matrices": 7}, "does not hold 1 matrices"),
        ({"confusion_matrices": APART}, "does not hold 1 matrices"),
        ({"confusion_matrices": [[[1, 2], [3, 4]]]}, "does not have 3 rows"),
        ({"confusion_matrices": [[[3, 1], [0, 2, 2], [1, 0, 1]]]}, "3 whole numbers in every row"),
        ({"confusion_matrices": [[[3, 1, 0.0], [0, 2, 2], [1, 0, 1]]]}, "3 whole numbers"),
        ({"confusion_matrices": [[[3, 1, True], [0, 2, 2], [1, 0, 1]]]}, "3 whole numbers"),
        ({"confusion_matrices": [[[3, 2, -1], [0, 2, 2], [1, 0, 1]]]}, "numbers below 0"),
        ({"confusion_matrices": [[[2, 2, 0], [0, 2, 2], [1, 0, 1]]]}, "has 4 of 8 samples of task"),
        ({"confusion_matrices": [[[3, 1, 0], [0, 2, 2], [0, 0, 0]]]}, "has 0 of 0 samples of task"),
        ({"accuracy_matrix": [[1.0, None], [5 / 8, None]]}, "task 1 right, and accuracy_matrix No"),
        ({"accuracy_matrix": None}, "accuracy_matrix has no last row"),
        ({"tasks": [{"name": "one"}, {}]}, "classes are not named"),
        ({"tasks": None}, "tasks are not named"),
    ],
)
def test_what_no_run_writes_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        confusion(record(TOGETHER) | changes)


def result_of(place: Path, scenario: str) -> tuple[Path, dict[str, Any]]:
    run = one_run("full", scenario, "train.epochs=1")
    assert run is not None
    assert run_one(run, Where(place)).status == "done"
    (folder,) = place.glob("tiny/*/seed*")
    result = read_result(folder)
    assert result is not None
    return folder, result


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_a_run_counts_every_test_sample_and_fsck_adds_up(scenario: str, tmp_path: Path) -> None:
    folder, result = result_of(tmp_path, scenario)
    found = confusion(result) or []
    assert len(found) == (1 if scenario == "class" else 3)
    assert {int(n) for one in found for n in one.sum(axis=1)} == {10}
    assert sum(map(len, found)) == 6
    assert ask("fsck", folder) == (0, "1 run: all whole\n", "")
    row = result["confusion_matrices"][0][0]
    row[0], row[1] = row[0] + 1, row[1] - 1
    write_result(folder, result)
    code, out, _ = ask("fsck", folder)
    assert code == 1
    assert "result.json: confusion_matrices " in out


def test_too_many_classes_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, kept = result_of(tmp_path / "kept", "class")
    monkeypatch.setattr("lora_cl.records.confusion.MOST_CELLS", 35)
    _, left = result_of(tmp_path / "left", "class")
    assert len(kept["confusion_matrices"][0]) == 6
    assert left["confusion_matrices"] is None
    assert left["accuracy_matrix"] == kept["accuracy_matrix"]
