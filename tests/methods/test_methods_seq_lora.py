from __future__ import annotations

from pathlib import Path

import pytest
import torch
from low_rank_cases import (
    experiment,
    learn,
    method_on,
)
from method_cases import SCENARIOS, run_one, seen

SEQ = "seq_lora: {rank: 2, alpha: 4}"


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_it_is_full_with_an_adapter(tmp_path: Path, scenario: str) -> None:
    seq = run_one(experiment(SEQ, scenario), tmp_path)
    adapter = "full: {adapter: {name: lora, rank: 2, alpha: 4}}"
    full = run_one(experiment(adapter, scenario), tmp_path)
    assert seq.result["accuracy_matrix"] == full.result["accuracy_matrix"]
    assert not seq.result["isolated"]
    assert not seq.result["needs_task_id"]


def test_costs_by_hand(tmp_path: Path) -> None:
    # The adapter: 2 (32 + 16) + 2 (16 + 16) = 160, once, and it can be merged into the base of 800.
    # A head: 2 * 16 + 2 = 34.
    cost = run_one(experiment(SEQ), tmp_path).result["cost"]
    assert cost["trained_params_per_task"] == 160 + 34
    assert cost["added_params_per_task"] == 34
    assert cost["total_params"] == 800 + 3 * 34
    assert cost["stored_bytes"] == 4 * (800 + 160 + 3 * 34)


def test_the_base_stays_and_earlier_tasks_do_not() -> None:
    method = method_on(SEQ)
    base = method.network.backbone.get_parameter("linear1.base.weight").clone()
    learn(method, [0])
    first, features = seen(method, 0), method.network.backbone(torch.ones(1, 32))
    learn(method, [1])
    assert torch.equal(method.network.backbone.get_parameter("linear1.base.weight"), base)
    assert seen(method, 0) != first
    assert (method.network.backbone(torch.ones(1, 32)) - features).abs().max() > 1e-3
