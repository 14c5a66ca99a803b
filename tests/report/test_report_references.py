"""Intransigence: against the one run of the same seed that learned all tasks at once."""

from __future__ import annotations

import pytest
from report_cases import FULL, JOINT, LORA, record, result, write

import lora_cl
from lora_cl.report import COLUMNS, aggregate, render


def by_label(records):
    (one,) = aggregate(records)
    return {row.label: row for row in one.rows}


def test_each_seed_against_the_joint_run_of_that_seed() -> None:
    other = [[None, None], [0.75, 0.65]]
    records = [record("full", seed, FULL) for seed in range(3)]
    rows = by_label([*records, record("joint", 0, JOINT), record("joint", 1, other)])
    # FULL learns .9 and .7. Joint: .95 and .85, then .75 and .65.
    found = rows["full"].by_seed["intransigence"]
    assert found == {0: pytest.approx(0.1), 1: pytest.approx(-0.1), 2: None}
    last = rows["full"].by_seed["last_task_intransigence"]
    assert last == {0: pytest.approx(0.15), 1: pytest.approx(-0.05), 2: None}
    assert rows["full"].measures["intransigence"].n == 2
    assert set(rows["joint"].by_seed["intransigence"].values()) == {None}


@pytest.mark.parametrize(
    "others",
    [
        [],
        [record("joint", 0, JOINT), record("joint2", 0, JOINT, config_hash="another")],
        [record("joint", 0, JOINT, status="failed")],
        [record("joint", 0, [[None] * 3, [None] * 3, [0.9] * 3])],
    ],
)
def test_without_one_reference_it_is_not_measured(others) -> None:
    row = by_label([record("lora", 0, LORA), *others])["lora"]
    assert row.measures["intransigence"].mean is None
    assert row.measures["last_task_intransigence"].mean is None
    assert row.measures["learning_accuracy"].mean == pytest.approx(0.85)


def test_as_columns_and_in_frames(tmp_path) -> None:
    records = [record("lora", 0, LORA), record("joint", 0, JOINT)]
    columns = [COLUMNS["intransigence"], COLUMNS["last_task_intransigence"]]
    text = render(aggregate(records), "markdown", columns=columns)
    # LORA learns .9 and .8: (.05 + .05) / 2, and .05.
    assert "| lora | 5.00 | 5.00 |" in text
    assert "| joint ‡ | - | - |" in text
    for label, matrix in (("lora", LORA), ("joint", JOINT)):
        write(tmp_path, result(label, 0, matrix))
    frame = lora_cl.load_results(tmp_path).set_index("label")
    assert frame.loc["lora", "intransigence"] == pytest.approx(0.05)
