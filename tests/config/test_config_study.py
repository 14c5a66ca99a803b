"""A sweep makes several configs of one: every combination once, and each at its own line."""

from __future__ import annotations

from pathlib import Path

import pytest

import lora_cl
from lora_cl.config import config_schema, parse_config
from lora_cl.errors import ConfigError
from lora_cl.running.preparation import check, prepare

BASE = """name: t
benchmark: {name: split, dataset: {name: synthetic, classes: 6, features: 8}, tasks: 3}
methods:
  full: {}
  lora: {rank: 2}
"""
SWEEP = """sweep:
  methods.lora.rank: [1, 4]
  train.lr: [1e-3, 1e-2]
"""


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "c.yaml", overrides)
    return str(caught.value)


def test_every_combination_is_a_point_and_the_file_is_as_it_was() -> None:
    experiment = parse_config(BASE + SWEEP, "c.yaml")
    found = [(p.config.methods["lora"].rank, p.config.train.lr) for p in experiment.points]
    assert found == [(1, 1e-3), (1, 1e-2), (4, 1e-3), (4, 1e-2)]
    assert experiment.config == parse_config(BASE, "c.yaml").config
    plain = parse_config(BASE, "c.yaml")
    assert plain.points == (plain,)


def test_a_method_that_is_not_concerned_runs_once_a_point_of_the_others() -> None:
    runs = prepare(parse_config(BASE + SWEEP + "seeds: 2\n", "c.yaml"), None, print)
    assert [(run.label, run.seed) for run in runs] == [
        (label, seed) for seed in (0, 1) for label in ["full"] * 2 + ["lora"] * 4
    ]
    assert len({run.run_hash for run in runs}) == 12
    assert all("sweep" not in run.resolved for run in runs)


def test_a_point_is_the_run_that_a_plain_config_asks_for() -> None:
    (swept,) = prepare(
        parse_config(BASE + "sweep: {train.lr: [0.5]}", "c", ["methods=[full]"]), None, print
    )
    (plain,) = prepare(parse_config(BASE, "c", ["methods=[full]", "train.lr=0.5"]), None, print)
    assert swept == plain


def test_rows_are_named_by_what_varies(tmp_path: Path) -> None:
    text = BASE + SWEEP
    records = lora_cl.run(parse_config(text, "c"), results=tmp_path, jobs=0, progress=False)
    assert [record.status for record in records] == ["done"] * 6
    from lora_cl.report import aggregate

    (table,) = aggregate(records)
    assert [row.label for row in table.rows] == [
        "full [lr=0.001]",
        "full [lr=0.01]",
        *(f"lora [rank={rank}, lr={lr}]" for rank in (1, 4) for lr in (0.001, 0.01)),
    ]


def test_whole_parts_can_be_swept() -> None:
    text = BASE + "sweep: {scenario: [task, class], benchmark.dataset.features: [8, 9]}"
    points = parse_config(text, "c").points
    assert [(p.config.scenario, p.config.benchmark.dataset.features) for p in points] == [
        ("task", 8),
        ("task", 9),
        ("class", 8),
        ("class", 9),
    ]


@pytest.mark.parametrize(
    ("sweep", "told"),
    [
        ("methods.lora.rnk: [1]", "c.yaml:7: methods.lora.rnk: unknown key (did you mean 'rank'?)"),
        ("methods.lroa.rank: [1]", "c.yaml:7: sweep.methods.lroa.rank: is not to be swept: no lab"),
        ("methods.lora: [1]", "c.yaml:7: sweep.methods.lora: is not to be swept: name a key of a"),
        ("trian.lr: [1]", "c.yaml:7: trian: unknown key (did you mean 'train'?)"),
        ("train.lr: [1, fast]", "c.yaml:7: train.lr: 'fast' is not allowed: it should be a valid"),
        ("train.lr.x: [1]", "c.yaml:7: train.lr: {'x': 1} is not allowed"),
        ("train.lr: 1", "c.yaml:7: sweep.train.lr: 1 is not allowed: it should be a valid list"),
        ("train.lr: []", "c.yaml:7: sweep.train.lr: [] is not allowed: it should have at least 1"),
        ("train.lr: [1, 0.5, 1]", "c.yaml:7: sweep.train.lr: 1 is given twice"),
        ("seeds: [[1], [2]]", "c.yaml:7: sweep.seeds: is not to be swept: list them under seeds"),
        ("name: [a]", "c.yaml:7: sweep.name: is not to be swept: it is the name of all the runs"),
        ("sweep.a: [1]", "c.yaml:7: sweep.sweep.a: is not to be swept: it is no part of a config"),
    ],
)
def test_what_cannot_be_swept_is_told_in_a_line(sweep: str, told: str) -> None:
    found = refusal(f"{BASE}sweep:\n  {sweep}\n")
    assert found.startswith(told)
    assert "\n" not in found


def test_too_many_combinations() -> None:
    values = list(range(1, 41))
    found = refusal(f"{BASE}sweep: {{train.epochs: {values}, train.batch_size: {values}}}\n")
    assert found == "c.yaml:6: sweep: 1,600 combinations are more than 1,000"


def test_what_fails_later_is_told_at_the_point() -> None:
    experiment = parse_config(BASE + "sweep:\n  benchmark.tasks: [3, 4]\n", "c.yaml")
    with pytest.raises(ConfigError, match=r"^c\.yaml:7: benchmark\.tasks: 6 classes do not div"):
        check(experiment, None)


def test_the_schema_knows_it() -> None:
    kinds = [kind["type"] for kind in config_schema()["properties"]["sweep"]["anyOf"]]
    assert kinds == ["object", "null"]


def test_one_without_values_is_none() -> None:
    text = BASE + "sweep:\n  train.lr: [0.1, 0.2]\n"
    assert len(parse_config(text, "c.yaml").points) == 2
    for one in (
        parse_config(BASE + "sweep:\n", "c.yaml"),
        parse_config(text, "c.yaml", ["sweep=null"]),
        parse_config(text, "c.yaml", ["sweep={}"]),
    ):
        assert [point.config for point in one.points] == [one.config]
