"""Configs to begin with: valid as they are, and with what stands in their comments."""

from __future__ import annotations

import re

import pytest

from lora_cl.benchmarks import BENCHMARKS as ALL
from lora_cl.config import parse_config
from lora_cl.config.starting import BENCHMARKS, SCENARIOS, starting_config
from lora_cl.running.preparation import check

OFFERED = re.compile(r"^( *)# (\S+: .*)$", re.M)


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_every_one_is_valid(benchmark: str, scenario: str) -> None:
    experiment = parse_config(starting_config(benchmark, scenario, "my.yaml"), "my.yaml")
    assert experiment.config.benchmark.name == benchmark
    assert experiment.config.scenario == scenario
    if benchmark != "sequence":  # Its data sets have to be fetched.
        check(experiment, None)


def test_there_is_one_of_every_benchmark() -> None:
    assert BENCHMARKS.keys() == ALL.keys()


def test_what_is_offered_in_comments_is_valid_too() -> None:
    text = starting_config("split", "task", "my.yaml")
    offered = OFFERED.findall(text)
    for indent, option in offered:
        changed = text.replace(f"{indent}# {option}", f"{indent}{option}")
        assert changed != text
        assert parse_config(changed, "my.yaml").config != parse_config(text, "my.yaml").config or (
            option.startswith("sweep")
        )
    assert [option.partition(":")[0] for _, option in offered] == [
        *("base", "head_lr", "schedule", "validation", "lora-r2", "ewc-lora", "sweep")
    ]
