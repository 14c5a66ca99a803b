from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from report_cases import FULL, JOINT, LORA, record

from lora_cl.records.folders import Record
from lora_cl.report import aggregate, to_frame
from lora_cl.report.aggregate import Problem
from lora_cl.report.reading import check


def only_row(records):
    (comparison,) = aggregate(records)
    (row,) = comparison.rows
    return row


def test_seeds_of_a_label_become_one_row():
    row = only_row([record("full", 0, FULL), record("full", 1, [[0.7, None], [0.7, 0.5]])])
    assert (row.label, row.method, row.seeds, row.complete) == ("full", "full", (0, 1), True)
    # (.5 + .7) / 2 = .6 and (.7 + .5) / 2 = .6
    assert row.measures["average_accuracy"].mean == pytest.approx(0.6, abs=1e-12)
    # .9 - .5 = .4 and .7 - .7 = 0: mean .2, sample standard deviation .4 / sqrt(2)
    forgetting = row.measures["forgetting"]
    assert forgetting.mean == pytest.approx(0.2, abs=1e-12)
    assert forgetting.std == pytest.approx(0.4 / 2**0.5, abs=1e-12)
    assert forgetting.n == 2
    assert row.measures["stored_bytes"].mean == 4096000
    # 1,234,567 and 500 of 2,000,000.
    assert row.measures["trained_share"].mean == pytest.approx(0.6172835)
    assert row.measures["added_share"].mean == pytest.approx(0.00025)
    assert row.accuracy_matrix_mean == [
        [pytest.approx(0.8), None],
        [pytest.approx(0.6), pytest.approx(0.6)],
    ]


def test_a_record_that_does_not_know_its_base_has_no_shares():
    old = record("full", 0, FULL)
    del old.result["cost"]["base_params"]
    row = only_row([old])
    assert row.measures["added_share"].mean is None
    assert row.measures["added_params_per_task"].mean == 500


def test_joint_is_a_reference_with_nulls():
    row = only_row([record("anything", 0, JOINT)])
    assert row.all_at_once
    assert row.measures["forgetting"].mean is None
    assert row.measures["forgetting"].n == 0
    assert not only_row([record("one", 0, [[0.5]])]).all_at_once


def test_needing_the_task_id_only_matters_where_it_is_withheld():
    told = {"needs_task_id": True}
    assert only_row([record("lora", 0, LORA, scenario="class", **told)]).given_task_id
    assert only_row([record("lora", 0, LORA, scenario="domain", **told)]).given_task_id
    assert not only_row([record("lora", 0, LORA, scenario="task", **told)]).given_task_id


def test_failed_and_missing_runs_stay_visible():
    error = {"kind": "diverged", "message": "not finite", "task": 1, "step": 7}
    records = [record("a", seed, FULL) for seed in range(3)] + [
        record("b", 0, LORA),
        record("b", 1, LORA, status="diverged", error=error),
    ]
    (comparison,) = aggregate(records)
    a, b = comparison.rows
    assert a.complete
    assert not b.complete
    assert b.seeds == (0,)
    assert b.problems == (Problem(1, "diverged", "not finite (task 1, step 7)"),)
    assert b.missing == (2,)


def test_a_row_without_any_finished_run_is_still_a_row():
    unfinished = Record(Path("x/lora/seed0-0"), "x", "lora", "", "", "", 0, "unfinished", {})
    row = only_row([unfinished])
    assert (row.seeds, row.accuracy_matrix_mean) == ((), None)
    assert row.problems == (Problem(0, "unfinished", None),)
    assert {summary.n for summary in row.measures.values()} == {0}


def test_configs_are_never_mixed(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, moment in ((old, 1000), (new, 2000)):
        folder.mkdir()
        (folder / "result.json").write_text("{}")
        os.utime(folder / "result.json", (moment, moment))
    cases = [
        (record("full", 0, FULL, config_hash="bbbbbbbbbb"), new),
        (record("full", 0, LORA, config_hash="aaaaaaaaaa"), old),
    ]
    records = [Record(**(vars(case) | {"folder": folder})) for case, folder in cases]
    (comparison,) = aggregate(records)
    # Nothing is known of what differs but that it does.
    assert [row.label for row in comparison.rows] == [
        "full [hash=bbbbbbbb]",
        "full [hash=aaaaaaaa]",
    ]
    assert [row.measures["average_accuracy"].n for row in comparison.rows] == [1, 1]
    assert [row.missing for row in comparison.rows] == [(), ()]
    assert comparison.notes == ("full: several configs; the newest is [hash=bbbbbbbb]",)


def test_an_unfinished_run_joins_the_only_config_of_its_label():
    unfinished = Record(
        Path("digits/full/seed1-0"), "digits", "full", "", "", "", 1, "unfinished", {}
    )
    row = only_row([record("full", 0, FULL), unfinished])
    assert (row.label, row.seeds) == ("full", (0,))
    assert row.problems == (Problem(1, "unfinished", None),)


def test_a_seed_counts_once():
    first = record("full", 0, FULL)
    again = Record(**(vars(record("full", 0, LORA)) | {"folder": Path("copy/seed0-0")}))
    failed = record("full", 0, FULL, status="failed", hash="11111111")
    (comparison,) = aggregate([failed, first, first, again])
    (row,) = comparison.rows
    assert row.seeds == (0,)
    assert row.measures["average_accuracy"].mean == pytest.approx(0.6, abs=1e-12)
    assert row.problems == ()
    (note,) = comparison.notes
    assert note.endswith("already: seed 0 (failed), seed 0 (done)")


def test_a_run_that_contradicts_its_row_is_not_counted():
    odd = record("full", 2, FULL, method="lora")
    row = only_row([record("full", 0, FULL), record("full", 1, FULL), odd])
    assert row.seeds == (0, 1)
    assert [(p.seed, p.status) for p in row.problems] == [(2, "unreadable")]


def test_routing_keeps_oracle_and_router_apart():
    routing = {
        "router": "entropy",
        "accuracy_matrix_oracle": LORA,
        "router_accuracy": [[1.0, None], [0.5, 0.7]],
    }
    row = only_row([record("lora", 0, FULL, scenario="class", routing=routing)])
    assert row.routing is not None
    assert row.routing.router == "entropy"
    assert row.routing.oracle.mean == pytest.approx(0.85, abs=1e-12)
    assert row.routing.router_accuracy.mean == pytest.approx(0.6, abs=1e-12)
    assert row.measures["average_accuracy"].mean == pytest.approx(0.6, abs=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema_version": 2}, "schema_version is 2"),
        ({"schema_version": True}, "schema_version is True"),
        ({"schema_version": None}, "schema_version is None"),
        ({"n_tasks": 3}, "does not have 3 rows"),
        ({"n_tasks": "2"}, "n_tasks"),
        ({"n_tasks": 0, "accuracy_matrix": []}, "n_tasks"),
        ({"accuracy_matrix": None}, "accuracy_matrix"),
        ({"accuracy_matrix": [[0.5, None], [0.5]]}, "2 numbers in every row"),
        ({"accuracy_matrix": [[0.5, None], 7]}, "2 numbers in every row"),
        ({"accuracy_matrix": [[0.5, None], [0.5, 50.0]]}, "outside 0 to 1"),
        ({"accuracy_matrix": [[0.5, None], [0.5, -0.1]]}, "outside 0 to 1"),
        ({"accuracy_matrix": [[0.5, None], [0.5, float("nan")]]}, "outside 0 to 1"),
        ({"accuracy_matrix": [[0.5, None], [0.5, "0.5"]]}, "neither a number nor null"),
        ({"accuracy_matrix": [[0.5, None], [0.5, True]]}, "neither a number nor null"),
        ({"accuracy_matrix": [[0.5, None], [0.5, 10**400]]}, "too large"),
        ({"untrained_accuracy": [0.5]}, "untrained_accuracy"),
        ({"validation_matrix": [[0.5]]}, "validation_matrix does not have 2 rows"),
        ({"validation_matrix": 0.5}, "validation_matrix does not have 2 rows"),
        ({"validation_matrix": [[0.5, None], [0.5, 7]]}, "validation_matrix holds numbers outside"),
        ({"untrained_accuracy": 0.5}, "untrained_accuracy"),
        ({"confusion_matrices": [[[1]]]}, "tasks are not named"),
        ({"cost": []}, "cost is not a mapping"),
        ({"cost": {"stored_bytes": -1}}, "cost.stored_bytes is -1"),
        ({"cost": {"train_seconds": float("inf")}}, "cost.train_seconds"),
        ({"cost": {"total_params": True}}, "cost.total_params"),
        ({"cost": {"total_params": 10**400}}, "cost.total_params is 1000"),
        ({"details": "x"}, "details is not a mapping"),
        ({"routing": []}, "routing"),
        ({"routing": {"router": "r", "router_accuracy": [[2]]}}, "router_accuracy"),
        ({"needs_task_id": "no"}, "needs_task_id"),
        ({"isolated": None}, "isolated"),
        ({"config_hash": 5}, "config_hash"),
        ({"status": "finished"}, "unknown status"),
    ],
)
def test_a_malformed_record_is_unreadable_and_gives_no_number(change, words):
    run = check(record("full", 0, FULL, **change))
    assert run.status == "unreadable"
    assert words in (run.reason or "")
    assert run.matrix is None
    assert run.values == {}
    row = only_row([record("full", 0, FULL, **change)])
    assert row.seeds == ()
    assert row.measures["average_accuracy"].mean is None


@pytest.mark.parametrize("error", ["x", 5, {}, {"message": 5}, {"kind": "oom", "task": "x"}, None])
def test_an_error_may_be_anything(error):
    row = only_row([record("full", 0, FULL, status="failed", error=error)])
    assert [(p.seed, p.status) for p in row.problems] == [(0, "failed")]


def test_frame_has_one_line_per_run():
    error = {"kind": "oom", "message": "out of memory", "task": None, "step": None}
    frame = to_frame(
        [record("full", 0, FULL), record("full", 1, FULL, status="failed", error=error)]
    )
    assert list(frame["seed"]) == [0, 1]
    assert list(frame["status"]) == ["done", "failed"]
    assert frame["average_accuracy"][0] == pytest.approx(0.6, abs=1e-12)
    assert frame["stored_bytes"][0] == 4096000
    assert frame["average_accuracy"].isna().tolist() == [False, True]
    assert frame["reason"][1] == "out of memory"
    assert list(to_frame([]).columns) == list(frame.columns)


def test_five_hundred_records_are_aggregated_quickly():
    ten = [[0.9 if j <= i else None for j in range(10)] for i in range(10)]
    records = [record(f"m{k // 5}", k % 5, ten) for k in range(500)]
    start = time.perf_counter()
    (comparison,) = aggregate(records)
    assert time.perf_counter() - start < 1.0
    assert len(comparison.rows) == 100
    assert {row.measures["average_accuracy"].n for row in comparison.rows} == {5}
