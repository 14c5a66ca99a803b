from __future__ import annotations

from pathlib import Path

import torch
from low_rank_cases import (
    experiment,
    learn,
    method_on,
)
from method_cases import run_one

DORA = "dora: {rank: 2, alpha: 4}"


def test_costs_by_hand(tmp_path: Path) -> None:
    # 32 -> 16 -> 16. A and B: 2 (32 + 16) + 2 (16 + 16) = 160; magnitudes: 16 + 16 = 32;
    # head: 2 * 16 + 2 = 34; in all 226. The base: 32 * 16 + 16 + 16 * 16 + 16 = 800.
    cost = run_one(experiment(DORA), tmp_path).result["cost"]
    assert cost["trained_params_per_task"] == cost["added_params_per_task"] == 226
    assert cost["total_params"] == 800 + 3 * 226
    assert cost["stored_bytes"] == 4 * (800 + 3 * 226)


def test_magnitude_and_direction_both_train() -> None:
    method = method_on(DORA)
    learn(method, [0])
    assert set(method.kept) == set()
    trained = 0
    for layer in ("linear1", "linear2"):
        norms = method.network.backbone.get_parameter(f"{layer}.base.weight").norm(dim=1)
        magnitude = method.bank[0][f"backbone.{layer}.lora_magnitude_vector"]
        assert 1e-4 < (magnitude - norms).abs().max() < 1.0
        assert method.bank[0][f"backbone.{layer}.lora_B.weight"].abs().max() > 1e-4
        trained += 1
    assert trained == 2


def test_untrained_it_is_the_base_bit_for_bit() -> None:
    method = method_on(DORA)
    x = torch.randn(8, 32)
    base = method.network.backbone(x)
    method.begin(method.benchmark.task(0))
    with method.view(0) as network:
        assert torch.equal(network.backbone(x), base)


def test_a_sealed_adapter_goes_to_peft_and_back() -> None:
    method = method_on(DORA)
    learn(method, [0])
    whole = method.to_peft(method.bank[0])
    assert whole is not None
    assert whole[0]["use_dora"] is True
    back = method.from_peft(*whole)
    assert back.keys() == method.bank[0].keys()
    assert all(torch.equal(back[k], v) for k, v in method.bank[0].items())
