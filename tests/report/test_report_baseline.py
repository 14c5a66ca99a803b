"""Rows against one of them: pairs by seed, Holm's correction, and seeds that are too few."""

from __future__ import annotations

import csv
import io
import json

import pytest
from report_cases import record

from lora_cl.errors import ConfigError
from lora_cl.report import aggregate, render
from lora_cl.report.baseline import against, notes_of
from lora_cl.report.statistics import holm, seeds_needed, smallest_p


def row(label: str, *accuracies: float, first: int = 0, **changes):
    """A run a seed, each with the same accuracy on both tasks."""
    return [
        record(label, first + seed, [[accuracy, None], [accuracy, accuracy]], **changes)
        for seed, accuracy in enumerate(accuracies)
    ]


RECORDS = [*row("full", 0.5, 0.6, 0.7), *row("lora", 0.8, 0.8, 0.8), *row("ewc", 0.6, 0.5, 0.8)]


def test_differences_are_paired_by_seed() -> None:
    (table,) = against(aggregate(RECORDS), "full")
    lora, ewc = table.differences
    # lora - full is .3, .2 and .1; ewc - full is .1, -.1 and .1.
    assert lora.pair is not None
    assert ewc.pair is not None
    assert (lora.pair.mean, lora.pair.n) == (pytest.approx(0.2), 3)
    assert lora.pair.ci95 == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-6)
    # All of one sign: 2 of 8 choices of signs are as far out. Of .1, -.1, .1 all 8 are.
    assert (lora.pair.p, ewc.pair.p) == (0.25, 1.0)
    assert (lora.p_holm, ewc.p_holm) == (0.5, 1.0)
    assert lora.pair.smallest_p == 0.25


def test_only_common_seeds_count() -> None:
    records = [*row("full", 0.5, 0.6), *row("lora", 0.9, 0.8, first=1), *row("ewc", 0.1, first=7)]
    (table,) = against(aggregate(records), "full")
    lora, ewc = table.differences
    assert lora.pair is not None
    assert (lora.pair.mean, lora.pair.n) == (pytest.approx(0.3), 1)
    assert (ewc.pair, ewc.p_holm) == (None, None)
    text = render(aggregate(records), baseline="full")
    (line,) = [line for line in text.splitlines() if line.startswith("ewc ")][1:]
    assert line.split() == ["ewc", "-", "-", "-", "-", "-", "0"]


def test_holm_by_hand() -> None:
    # .01 x 4, .02 x 3, .03 x 2 is no more than the one before, .5.
    assert holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_seeds_that_are_too_few_are_told() -> None:
    assert [smallest_p(n) for n in (0, 1, 3, 6)] == [1.0, 1.0, 0.25, 0.03125]
    # One row: 2/2^6 = .031. Two: 2 x 2/2^7 = .031.
    assert (seeds_needed(1), seeds_needed(2)) == (6, 7)
    (table,) = against(aggregate(RECORDS), "full")
    assert notes_of(table)[1:] == [
        "More seeds needed: n = 3 allows no p below 0.25, however large the difference; 7 for "
        "p ≤ 0.05 after the correction, 6 without it."
    ]
    many = [*row("full", *[0.5] * 7), *row("lora", *[0.6] * 7), *row("ewc", *[0.7] * 7)]
    (table,) = against(aggregate(many), "full")
    assert len(notes_of(table)) == 1
    assert [one.p_holm for one in table.differences] == [2 * 2 / 2**7] * 2


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ("ful", "--baseline ful: no row is called so (did you mean 'full'?); there are full, lora"),
        ("full", "--baseline full: no other row has a finished seed in common with it"),
    ],
)
def test_baselines_that_are_none(label: str, told: str) -> None:
    table = aggregate([*row("full", 0.5), *row("lora", 0.5, first=1)])
    with pytest.raises(ConfigError) as caught:
        render(table, baseline=label)
    assert str(caught.value) == told


def test_a_table_without_such_a_row_says_so() -> None:
    other = row("ewc", 0.5, experiment="other")
    text = render(aggregate([*RECORDS, *other]), baseline="full")
    assert "No row is called full here." in text


def test_for_programs() -> None:
    objects = {one["label"]: one for one in json.loads(render(aggregate(RECORDS), "json"))}
    assert all("baseline" not in one for one in objects.values())
    text = render(aggregate(RECORDS), "json", baseline="full")
    found = {one["label"]: one["baseline"] for one in json.loads(text)}
    assert found["full"] is None
    assert found["lora"] == {
        "label": "full",
        "measure": "average_accuracy",
        "mean": pytest.approx(0.2),
        "ci95": pytest.approx(0.2484, abs=1e-4),
        "p": 0.25,
        "smallest_p": 0.25,
        "n": 3,
        "p_holm": 0.5,
    }
    lines = list(csv.DictReader(io.StringIO(render(aggregate(RECORDS), "csv", baseline="full"))))
    assert [line["baseline_label"] for line in lines] == ["", "full", "full"]
    assert [line["baseline_p_holm"] for line in lines] == ["", "0.5", "1.0"]
    assert r"\toprule" in render(aggregate(RECORDS), "latex", baseline="full")
    assert "| lora | 20.00 |" in render(aggregate(RECORDS), "markdown", baseline="full")
