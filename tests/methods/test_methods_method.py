"""What all methods share: what they count as needed to answer, and what they say of themselves."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from low_rank_cases import learn, method_on
from method_cases import SCENARIOS
from torch import nn

from lora_cl.adapters import NF4Linear, add_adapter, make_lora, merged_parameter_count, wrap
from lora_cl.methods import METHODS

# 32 -> 16 -> 16: the base has 32 * 16 + 16 + 16 * 16 + 16 = 800 parameters, a head of two classes
# 2 * 16 + 2 = 34. A and B of rank 2 have 2 (32 + 16) + 2 (16 + 16) = 160.
BASE, HEAD, LORA = 800, 34, 160
NOTHING_BUT_HEADS = [BASE + HEAD, BASE + 2 * HEAD, BASE + 3 * HEAD]


def each(first: int, part: int) -> list[int]:
    """What is needed after each of three tasks that add ``part`` to ``first``."""
    return [first + part, first + 2 * part, first + 3 * part]


TOTALS = {
    "full: {}": NOTHING_BUT_HEADS,
    "frozen: {}": NOTHING_BUT_HEADS,
    "joint: {}": NOTHING_BUT_HEADS,
    "ewc: {}": NOTHING_BUT_HEADS,
    "si: {}": NOTHING_BUT_HEADS,
    "lwf: {}": NOTHING_BUT_HEADS,
    "derpp: {size: 5}": NOTHING_BUT_HEADS,
    "sd_lora: {rank: 2}": NOTHING_BUT_HEADS,
    "replay: {per_class: 5}": NOTHING_BUT_HEADS,
    # Owners are masks: bytes, no parameters.
    "packnet: {}": NOTHING_BUT_HEADS,
    # One adapter, or one branch more a task, for all tasks alike: merged, they need nothing.
    "seq_lora: {rank: 2}": NOTHING_BUT_HEADS,
    "o_lora: {rank: 2}": NOTHING_BUT_HEADS,
    "inflora: {rank: 2}": NOTHING_BUT_HEADS,
    "merged: {rank: 2}": NOTHING_BUT_HEADS,
    "ewc: {adapter: {name: lora, rank: 2}}": NOTHING_BUT_HEADS,
    "full: {adapter: {name: dora, rank: 2}}": NOTHING_BUT_HEADS,
    # A 4-bit weight cannot take the adapter in and stay in 4 bits.
    "si: {adapter: {name: qlora, rank: 2}}": each(BASE + LORA, HEAD),
    # One adapter per task: switching needs the base and every one of them.
    "lora: {rank: 2}": each(BASE, LORA + HEAD),
    "qlora: {rank: 2}": each(BASE, LORA + HEAD),
    # Magnitudes: 16 + 16.
    "dora: {rank: 2}": each(BASE, LORA + 32 + HEAD),
    # Triplets with their lambda: 2 (32 + 1 + 16) + 2 (16 + 1 + 16) = 164; none is pruned.
    "adalora: {rank: 2, target_rank: 2, every: 1}": each(BASE, 164 + HEAD),
    # A branch 32 * 4 + 4 and a head on 16 + 4 features: 132 + 42.
    "shared_private: {private_dim: 4}": each(BASE, 132 + 42),
    "independent: {}": each(0, BASE + HEAD),
    # The first column is the base. The second has weights 32 * 16 + 16 and 32 * 16 + 16, adapters
    # 2 (16 * 16 + 1) and a head 2 * 32 + 2; in the third, V sees twice as much.
    "pnn: {}": [834, 834 + 528 + 528 + 514 + 66, 834 + 1636 + 528 + 528 + 1026 + 66],
}


def test_every_method_is_counted() -> None:
    assert {method.partition(":")[0] for method in TOTALS} == set(METHODS)
    assert len(TOTALS) == len(METHODS) + 3


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("text", TOTALS)
def test_parameters_needed_to_answer(text: str, scenario: str) -> None:
    method = method_on(text, scenario)
    found = []
    for task_id in range(3):
        learn(method, [task_id], steps=1)
        found.append(method.total_parameters())
    # With one label set there is one head; of a class-incremental one the outputs seen so far.
    shared = scenario == "domain" and not method.private_heads
    assert found == [total - task_id * HEAD * shared for task_id, total in enumerate(TOTALS[text])]


def test_the_base_that_a_router_looks_at_is_needed() -> None:
    for text, expected in {
        "independent: {router: prototype}": 2 * (BASE + HEAD) + BASE,
        "independent: {router: mahalanobis}": 2 * (BASE + HEAD) + BASE,
        "independent: {router: energy}": 2 * (BASE + HEAD),
        "independent: {router: adapted-mahalanobis}": 2 * (BASE + HEAD),
        "pnn: {router: prototype}": 834 + 1636 + BASE,
        "lora: {rank: 2, router: prototype}": BASE + 2 * (LORA + HEAD),  # The base is kept anyway.
    }.items():
        method = method_on(text, "class")
        learn(method, [0, 1], steps=1)
        assert method.total_parameters() == expected, text


@pytest.mark.parametrize("text", ["o_lora: {}", "inflora: {}", "seq_lora: {}"])
def test_merged_branches_on_the_network_of_the_tables(text: str) -> None:
    # 784 * 400 + 400 + 400 * 400 + 400 = 474 400, and five heads of 2 * 400 + 2.
    model = "{name: mlp, hidden: [400, 400]}"
    method = method_on(text, model=model, tasks=5, features=784)
    for task_id in range(5):
        method.begin(method.benchmark.task(task_id))
    assert method.total_parameters() == 474_400 + 5 * 802 == 478_410


def test_merging_by_layer() -> None:
    backbone = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.Conv2d(2, 3, 3))
    wrap(backbone, ["0"], quantize=True)
    wrap(backbone, ["1", "2"])
    dense = 6 * 5 + 5 + 5 * 4 + 4 + 2 * 9 * 3 + 3
    assert merged_parameter_count(backbone) == dense
    make = partial(make_lora, rank=2, alpha=1, generator=torch.Generator())
    for name in ("one", "two"):
        add_adapter(backbone, name, lambda layer, base: make(base))
    assert isinstance(backbone[0].base, NF4Linear)
    assert merged_parameter_count(backbone) == dense + 2 * 2 * (6 + 5)
    assert merged_parameter_count(nn.Linear(6, 5)) == 35


@pytest.mark.parametrize("name", METHODS)
def test_details_can_be_asked_for_at_any_time(name: str) -> None:
    # A run that fails before its first task has a record, too.
    method = method_on(f"{name}: {{}}")
    json.dumps(method.details(), allow_nan=False)
    method.begin(method.benchmark.task(0))
    json.dumps(method.details(), allow_nan=False)
