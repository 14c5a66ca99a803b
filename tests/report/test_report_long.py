"""compare --long: a line for each run, task learned and task evaluated."""

from __future__ import annotations

import csv
import io
import json

import pytest
from process_cases import ask
from report_cases import JOINT, LORA, record, result, write

from lora_cl.report import aggregate
from lora_cl.report.long import long_text

HELD_OUT = [[0.85, None], [0.8, 0.75]]
RECORDS = [
    record("lora", 0, LORA, validation_matrix=HELD_OUT, untrained_accuracy=[0.5, 0.25]),
    record("lora", 1, LORA, status="failed"),
    record("joint", 0, JOINT),
]


def test_every_entry_of_every_finished_run() -> None:
    lines = json.loads(long_text(aggregate(RECORDS), "json"))
    names = ("label", "seed", "task_learned", "task_evaluated", "accuracy")
    assert [tuple(line[name] for name in names) for line in lines] == [
        ("lora", 0, 0, 0, 0.9),
        ("lora", 0, 0, 1, None),
        ("lora", 0, 1, 0, 0.9),
        ("lora", 0, 1, 1, 0.8),
        ("joint", 0, 0, 0, None),
        ("joint", 0, 0, 1, None),
        ("joint", 0, 1, 0, 0.95),
        ("joint", 0, 1, 1, 0.85),
    ]
    lora, joint = lines[:4], lines[4:]
    assert [line["validation_accuracy"] for line in lora] == [0.85, None, 0.8, 0.75]
    assert [line["untrained_accuracy"] for line in lora] == [0.5, 0.25, 0.5, 0.25]
    assert {line["validation_accuracy"] for line in joint} == {None}
    assert {line["experiment"] for line in lines} == {"digits"}


def test_csv_says_the_same() -> None:
    table = aggregate(RECORDS)
    lines = json.loads(long_text(table, "json"))
    read = list(csv.DictReader(io.StringIO(long_text(table, "csv"))))
    assert len(read) == 8
    for ours, theirs in zip(lines, read, strict=True):
        assert {key: "" if value is None else str(value) for key, value in ours.items()} == theirs


@pytest.mark.parametrize("options", [(), ("--format", "csv", "--baseline", "lora")])
def test_it_is_for_programs(tmp_path, options) -> None:
    write(tmp_path, result("lora", 0, LORA))
    code, out, err = ask("compare", tmp_path, "--long", *options)
    assert (code, out) == (2, "")
    assert err.startswith("error: --long: goes with --format csv or json")
    assert err.count("\n") == 1


def test_the_command(tmp_path) -> None:
    write(tmp_path, result("lora", 0, LORA))
    write(tmp_path, result("full", 0, LORA))
    code, out, _ = ask("compare", tmp_path, "--long", "--format", "csv", "--methods", "lora")
    assert code == 0
    assert len(list(csv.DictReader(io.StringIO(out)))) == 4
