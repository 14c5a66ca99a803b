"""What was published stands beside a config: read strictly, and no part of any run."""

from __future__ import annotations

from typing import get_args

import pytest

from lora_cl.config import parse_config
from lora_cl.config.expected import CellOptions
from lora_cl.errors import ConfigError
from lora_cl.report.aggregate import MEASURES

BASE = """name: t
benchmark: {name: split, dataset: {name: synthetic, classes: 6, features: 8}, tasks: 3}
methods:
  full: {}
  lora: {rank: 2}
"""
EXPECT = """expect:
  source: A. Author 2022, doi:1
  cells:
    full: {mean: 0.5, sem: 0.01, n: 20}
    lora: {mean: 0.9, measure: forgetting, note: theirs is of another rank}
"""


def test_what_was_published_changes_no_run() -> None:
    plain, published = parse_config(BASE, "c.yaml"), parse_config(BASE + EXPECT, "c.yaml")
    assert plain.expect is None
    assert published.expect is not None
    assert published.expect.cells["full"] == CellOptions(mean=0.5, sem=0.01, n=20)
    assert published.expect.cells["lora"].sem is None
    assert published.config == plain.config
    assert published.runs({}) == plain.runs({})
    assert all("expect" not in run.resolved for run in published.runs({}))


def test_measures_are_those_of_the_tables() -> None:
    measures = get_args(CellOptions.model_fields["measure"].annotation)
    assert len(measures) == 6
    assert set(measures) <= set(MEASURES)


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        (
            "lroa: {mean: 0.5}",
            "c.yaml:9: expect.cells.lroa: no label is 'lroa' (did you mean 'lora'?); "
            "there are full, lora",
        ),
        ("lora: {sem: 0.1}", "c.yaml:9: expect.cells.lora.mean: is missing"),
        (
            "lora: {mean: 0.5, measure: forgeting}",
            "c.yaml:9: expect.cells.lora.measure: 'forgeting' is not allowed "
            "(did you mean 'forgetting'?); allowed: average_accuracy, ",
        ),
        ("lora: {mean: 98.7}", "c.yaml:9: expect.cells.lora.mean: 98.7 is not allowed: it should"),
        (
            "lora: {mean: 0.5, sme: 0.1}",
            "c.yaml:9: expect.cells.lora.sme: unknown key (did you mean 'sem'?)",
        ),
    ],
)
def test_bad_cells_in_a_line(cells: str, told: str) -> None:
    text = f"{BASE}expect:\n  source: A\n  cells:\n    {cells}\n"
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "c.yaml")
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


def test_bad_sections_in_a_line() -> None:
    wrong = {
        EXPECT + "  quick: [lroa]\n": "c.yaml:11: expect.quick: no label is 'lroa'",
        EXPECT.replace("  source: A. Author 2022, doi:1\n", ""): "expect.source: is missing",
        EXPECT + "sweep: {train.lr: [1e-3, 1e-2]}\n": "goes with one config, not with a sweep",
        "expect: {source: A, cells: {}}\n": "expect.cells: {} is not allowed",
    }
    for text, told in wrong.items():
        with pytest.raises(ConfigError, match=told.replace(".", r"\.")):
            parse_config(BASE + text, "c.yaml")
