"""Which runs share a table, and which a row: never two that differ in what decides numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_cases import FULL, JOINT, LORA, config, configured, record, write

from lora_cl.records.folders import Record, load_records
from lora_cl.report import aggregate, render
from lora_cl.report.aggregate import Comparison

DATA = {"benchmark.dataset": "sha256:" + "d" * 64}


def labels(comparison: Comparison) -> list[str]:
    return [row.label for row in comparison.rows]


def titles(comparisons: list[Comparison]) -> list[str]:
    lines = render(comparisons, "markdown").splitlines()
    return [line.removeprefix("### ") for line in lines if line.startswith("### ")]


def split(**options: Any) -> dict[str, Any]:
    return {**config("x")["benchmark"], **options}


def test_one_table_per_scenario_and_each_has_a_best() -> None:
    records = [
        configured(label, 0, matrix, scenario=scenario)
        for scenario, best in (("class", "lora"), ("task", "full"))
        for label, matrix in (("lora", LORA), ("full", FULL))
        if best
    ]
    comparisons = aggregate(records)
    assert titles(comparisons) == [
        "digits · split · task-incremental",
        "digits · split · class-incremental",
    ]
    assert [labels(one) for one in comparisons] == [["lora", "full"], ["lora", "full"]]
    assert render(comparisons, "markdown").count("**85.00**") == 4  # Two columns of two tables.


def test_one_table_per_benchmark_named_by_what_differs() -> None:
    records = [
        configured("lora", 0, benchmark=split(tasks=tasks, class_order=order))
        for tasks, order in ((12, "fixed"), (3, "shuffled"), (6, "fixed"), (3, "fixed"))
    ]
    comparisons = aggregate(records)
    assert titles(comparisons) == [
        "digits · split, tasks=3, class_order=fixed · task-incremental",
        "digits · split, tasks=3, class_order=shuffled · task-incremental",
        "digits · split, tasks=6, class_order=fixed · task-incremental",
        "digits · split, tasks=12, class_order=fixed · task-incremental",
    ]
    assert {label for one in comparisons for label in labels(one)} == {"lora"}
    # Of other experiments a table need not be told apart.
    other = configured("lora", 0, benchmark=split(tasks=3), name="other")
    assert titles(aggregate([records[0], other])) == [
        "digits · split · task-incremental",
        "other · split · task-incremental",
    ]


def test_other_data_are_another_table() -> None:
    """The same config and file name, another content."""
    contents = [{"benchmark.dataset": "sha256:" + digit * 64} for digit in "12"]
    comparisons = aggregate([configured("lora", 0, content=content) for content in contents])
    assert titles(comparisons) == [
        "digits · split, data=11111111 · task-incremental",
        "digits · split, data=22222222 · task-incremental",
    ]


def test_rows_of_one_label_are_named_by_their_options() -> None:
    records = [
        configured("lora", seed, rank=rank, train={"epochs": 1, "lr": lr})
        for rank, lr in ((16, 0.1), (4, 0.1), (4, 0.01))
        for seed in (0, 1)
    ]
    (comparison,) = aggregate([configured("full", 0), *records])
    assert labels(comparison) == [
        "full",
        "lora [rank=4, lr=0.01]",
        "lora [rank=4, lr=0.1]",
        "lora [rank=16, lr=0.1]",
    ]
    assert [row.seeds for row in comparison.rows] == [(0,), (0, 1), (0, 1), (0, 1)]
    assert [row.options.get("method.rank") for row in comparison.rows] == [8, 4, 4, 16]


def test_another_version_of_the_code_is_another_row() -> None:
    contents = [{**DATA, "code": digit * 64, "torch": "2.15.0"} for digit in "ab"]
    records = [
        configured(label, seed, content=content)
        for content in contents
        for label in ("full", "lora")
        for seed in (0, 1)
    ]
    (comparison,) = aggregate(records)
    names = [f"{label} [code={digit * 8}]" for label in ("full", "lora") for digit in "ab"]
    assert labels(comparison) == names
    assert [row.measures["average_accuracy"].n for row in comparison.rows] == [2, 2, 2, 2]


def test_other_seeds_are_no_other_config() -> None:
    (comparison,) = aggregate([configured("lora", seed) for seed in (3, 0, 11)])
    assert labels(comparison) == ["lora"]
    assert comparison.rows[0].seeds == (0, 3, 11)


def test_two_labels_of_one_config_are_two_rows() -> None:
    records = [configured(label, 0, method="lora") for label in ("a", "b")]
    assert records[0].result["config_hash"] == records[1].result["config_hash"]
    (comparison,) = aggregate(records)
    assert labels(comparison) == ["a", "b"]
    assert render([comparison], "markdown").count("**85.00**") == 4


def test_rows_stand_in_the_order_of_the_config() -> None:
    order = ["lora", "full", "adalora", "frozen"]
    records = [configured(label, 0, position=i) for i, label in enumerate(order)]
    (comparison,) = aggregate(sorted(records, key=lambda one: one.label))
    assert labels(comparison) == order
    # A run that was made by a part of the config, where it was the first, is where it belongs.
    alone = configured("frozen", 1, position=0)
    (comparison,) = aggregate([alone, *records])
    assert labels(comparison) == order
    # Records that do not say it are last, in their own order.
    unknown = [configured(label, 0) for label in ("b", "a")]
    (comparison,) = aggregate([*unknown, *reversed(records)])
    assert labels(comparison) == [*order, "b", "a"]


def cut_off(root: Path, whole: Record) -> Path:
    """The folder of a run that was begun and has no record yet."""
    folder = write(root, whole.result)
    (folder / "result.json").unlink()
    return folder


def test_an_unfinished_run_is_where_its_config_says(tmp_path: Path) -> None:
    for rank, seed in ((4, 0), (8, 0), (8, 1)):
        write(tmp_path, configured("lora", seed, rank=rank).result)
    write(tmp_path, configured("lora", 0, rank=4, scenario="class").result)
    cut_off(tmp_path, configured("lora", 1, rank=4))
    cut_off(tmp_path, configured("lora", 0, rank=2))
    cut_off(tmp_path, configured("lora", 1, rank=2))
    task, in_class = aggregate(load_records([tmp_path]))
    names = ["lora [rank=2]", "lora [rank=4]", "lora [rank=8]"]
    assert labels(task) == names
    problems = [[(p.seed, p.status) for p in row.problems] for row in task.rows]
    assert problems == [[(0, "unfinished"), (1, "unfinished")], [(1, "unfinished")], []]
    assert labels(in_class) == ["lora"]
    assert in_class.rows[0].complete


@pytest.mark.parametrize("content", [b"", b"\xff", b"[1\n", b'{"event": "run_started"}\n', b"1\n"])
def test_an_unfinished_run_of_which_nothing_is_known_stays_visible(
    tmp_path: Path, content: bytes
) -> None:
    for tasks in (2, 4):
        write(tmp_path, configured("lora", 0, benchmark=split(tasks=tasks)).result)
    (cut_off(tmp_path, configured("lora", 1)) / "events.jsonl").write_bytes(content)
    unknown, two, four = sorted(
        aggregate(load_records([tmp_path])), key=lambda one: one.distinction
    )
    assert (two.distinction, four.distinction) == (("tasks=2",), ("tasks=4",))
    assert two.rows[0].complete
    assert four.rows[0].complete
    assert [(p.seed, p.status) for p in unknown.rows[0].problems] == [(1, "unfinished")]


def test_with_one_candidate_there_is_no_doubt(tmp_path: Path) -> None:
    write(tmp_path, configured("lora", 0).result)
    (cut_off(tmp_path, configured("lora", 1)) / "events.jsonl").write_bytes(b"\xff")
    (comparison,) = aggregate(load_records([tmp_path]))
    assert labels(comparison) == ["lora"]
    assert [(p.seed, p.status) for p in comparison.rows[0].problems] == [(1, "unfinished")]


def test_records_without_content_are_rows_of_the_table_they_belong_to() -> None:
    """Old records: what they were made of besides the config is not known."""
    records = [
        configured("lora", 0, content={**DATA, "torch": "2.15.0"}),
        configured("joint", 0, JOINT),
    ]
    old = configured("lora", 1, content={})
    (comparison,) = aggregate([*records, old])
    hashes = [one.result["config_hash"][:8] for one in (records[0], old)]
    assert labels(comparison) == [*(f"lora [hash={x}]" for x in hashes), "joint"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config": [1]}, "config is not a mapping"),
        ({"content": "x"}, "content is not a mapping"),
        ({"content": {"torch": 2}}, "content holds something that is not text"),
        ({"position": -1}, "position is -1"),
        ({"position": True}, "position is True"),
        ({"position": "first"}, "position is 'first'"),
    ],
)
def test_a_record_that_is_malformed_is_unreadable(changes: dict[str, Any], words: str) -> None:
    (comparison,) = aggregate([configured("lora", 0, changes=changes)])
    ((problem,),) = [row.problems for row in comparison.rows]
    assert problem.status == "unreadable"
    assert words in (problem.reason or "")


@pytest.mark.parametrize(
    "odd",
    [
        {"methods": {}},
        {"methods": {"a": {}, "b": {}}},
        {"methods": [1]},
        {"methods": {"a": "lora"}},
        {"train": {"": {"": None}}},
        {"train": [[[[{}]]], {"name": {"name": {}}}]},
        {"model": "mlp", "benchmark": None},
        {"name": {"x": 1}, "seeds": "x"},
    ],
)
def test_a_config_may_hold_anything(odd: dict[str, Any]) -> None:
    plain = configured("lora", 0)
    strange = record("lora", 1, LORA, config=odd, config_hash="5" * 64)
    comparisons = aggregate([plain, strange])
    assert sum(len(one.rows) for one in comparisons) == 2
    for format in ("table", "markdown", "latex", "csv", "json"):  # noqa: A001
        assert render(comparisons, format)
    json.loads(render(comparisons, "json"))
