"""A budget makes methods as large as it allows, and says so where it cannot be kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lora_cl
from lora_cl.config import Experiment, parse_config
from lora_cl.errors import ConfigError
from lora_cl.running.preparation import check, prepare

MLP = "{name: mlp, hidden: [16, 16]}"


def experiment(methods: str, budget: str, scenario: str = "task", model: str = MLP) -> Experiment:
    text = f"""
name: tiny
benchmark: {{name: split, tasks: 3, dataset:
  {{name: synthetic, classes: 6, train_per_class: 24, features: 32}}}}
scenario: {scenario}
model: {model}
methods: {{{methods}}}
budget: {budget}
"""
    return parse_config(text, "c.yaml")


def solved(methods: str, budget: str) -> dict[str, Any]:
    """The options of the runs, by label."""
    runs = prepare(experiment(methods, budget), None, print)
    return {run.label: run.resolved["methods"][run.label] for run in runs}


def test_the_rank_by_hand() -> None:
    # 32 -> 16 -> 16: a rank has 32 + 16 + 16 + 16 = 80 parameters, a head 34.
    # DoRA has 32 magnitudes more.
    for budget, rank in ((114, 1), (193, 1), (194, 2), (1000, 12)):
        most = f"{{added_params_per_task: {budget + 32}}}"
        found = solved("lora: {rank: 3}, dora: {rank: 3}", most)
        assert found["dora"]["rank"] == rank, budget
        assert found["lora"]["rank"] == (budget + 32 - 34) // 80


def test_other_sizes() -> None:
    found = solved(
        "shared_private: {private_dim: 99}, pnn: {}, full: {}", "{added_params_per_task: 1000}"
    )
    # A branch has 32 w + w parameters, and a head 2 (16 + w) + 2.
    assert found["shared_private"]["private_dim"] == (1000 - 34) // 35
    assert 0 < found["pnn"]["column_width"] < 1
    assert found["full"]["method"] == "full"


def test_the_memory_in_bytes() -> None:
    base, heads = 800 * 4, 3 * 34 * 4
    # A sample of replay has 32 numbers in 4 bytes, a label and a task in a byte each.
    budget = base + heads + 130 * 6 * 7
    found = solved("replay: {}", f"{{stored_bytes: {budget + 5}}}")
    assert found["replay"]["per_class"] == 7
    # There are 24 samples a class: more memory changes nothing.
    whole = solved("replay: {}", "{stored_bytes: 1000000}")["replay"]["per_class"]
    assert whole == 24


def test_what_makes_no_difference_stays() -> None:
    found = solved("o_lora: {rank: 5}, replay: {per_class: 9}", "{added_params_per_task: 50}")
    assert found["o_lora"]["rank"] == 5
    assert found["replay"]["per_class"] == 9


def test_a_budget_that_nothing_meets_is_refused_with_the_nearest() -> None:
    for act in (lambda one: check(one, None), lambda one: prepare(one, None, print)):
        with pytest.raises(ConfigError) as caught:
            act(experiment("lora: {}", "{added_params_per_task: 113}"))
        assert str(caught.value) == (
            "c.yaml:7: methods.lora: cannot keep to the budget of 113: the least rank, 1, is 114 "
            "added_params_per_task, and that is the nearest there is"
        )


@pytest.mark.parametrize("budget", ["{}", "{stored_bytes: 1, added_params_per_task: 1}"])
def test_one_thing_is_budgeted(budget: str) -> None:
    with pytest.raises(ConfigError, match="give one of added_params_per_task, stored_bytes"):
        experiment("lora: {}", budget)


def test_a_run_of_its_own_config_is_the_same_run() -> None:
    (run,) = prepare(experiment("lora: {}", "{added_params_per_task: 500}"), None, print)
    (again,) = prepare(parse_config(run.to_yaml(), "again"), None, print)
    assert again.run_hash == run.run_hash


def test_the_runs_keep_to_it(tmp_path: Path) -> None:
    methods = "lora: , seq_lora: , replay: , derpp: , ewc: {adapter: lora}, sd_lora: , inflora:"
    one = experiment(methods, "{stored_bytes: 20000}", "class")
    records = lora_cl.run(one, results=tmp_path, jobs=0, progress=False)
    stored = {record.label: record.result["cost"]["stored_bytes"] for record in records}
    assert len(stored) == 7
    for label, number in stored.items():
        assert 17000 < number <= 20000, label
