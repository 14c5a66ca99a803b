from __future__ import annotations

import gc
import math
from pathlib import Path

import torch
from low_rank_cases import (
    experiment,
    learn,
    method_on,
)
from method_cases import CNN, run_one
from torch.nn import functional

from lora_cl.adapters import NF4Linear, adapted_layers
from lora_cl.running.loading import load_run

QLORA = "qlora: {rank: 2, alpha: 4}"
ODD = "{name: mlp, hidden: [37, 53]}"
ODD_SIZES = (32 * 37, 37 * 53)


def floats_of_base_size() -> int:
    """How many float tensors as large as a weight of ODD are alive in this process."""
    gc.collect()
    tensors = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]
    assert len(tensors) > 4
    return sum(t.is_floating_point() and t.numel() in ODD_SIZES for t in tensors)


def test_no_float_copy_of_the_base_is_alive() -> None:
    before = floats_of_base_size()
    dense = method_on("lora: {rank: 2}", model=ODD)
    assert floats_of_base_size() == before + 2
    del dense
    method = method_on(QLORA, model=ODD)
    assert floats_of_base_size() == before
    learn(method, [0, 1])
    method.begin(method.benchmark.task(2))
    assert floats_of_base_size() == before
    with method.view(0) as network:
        network(torch.zeros(3, 32)).sum().backward()
        assert floats_of_base_size() == before


def test_costs_by_hand(tmp_path: Path) -> None:
    # 32 * 16 = 512 values: 256 bytes of codes, 8 of absmax, 4 + 4 of its scale and mean.
    # 16 * 16 = 256 values: 128 + 4 + 4 + 4. Two biases of 16 floats: 128. In all 540 bytes.
    # A task: 2 (32 + 16) + 2 (16 + 16) + (2 * 16 + 2) = 194 floats. The base counts 800.
    cost = run_one(experiment(QLORA), tmp_path).result["cost"]
    assert cost["trained_params_per_task"] == cost["added_params_per_task"] == 194
    assert cost["total_params"] == 800 + 3 * 194
    assert cost["stored_bytes"] == 540 + 3 * 4 * 194


def test_a_single_task_adds_what_it_trains(tmp_path: Path) -> None:
    cost = run_one(experiment(QLORA, tasks=1), tmp_path).result["cost"]
    assert cost["added_params_per_task"] == 194
    assert cost["total_params"] == 994


def test_the_state_holds_the_codes() -> None:
    method, other = method_on(QLORA), method_on(QLORA)
    state = method.state_dict()
    layer = "network.backbone.linear1.base."
    held = {k.removeprefix(layer): v.dtype for k, v in state.items() if k.startswith(layer)}
    assert held == {
        "codes": torch.uint8,
        "absmax": torch.int8,
        "absmax_scale": torch.float32,
        "absmax_mean": torch.float32,
        "bias": torch.float32,
    }
    base = other.network.backbone.get_submodule("linear1.base")
    base.get_buffer("codes").zero_()
    other.load_state_dict({k: v.clone() for k, v in state.items()})
    x = torch.randn(4, 32)
    assert torch.equal(method.network.backbone(x), other.network.backbone(x))


def test_the_forward_against_the_dequantised_weight() -> None:
    method = method_on(QLORA)
    learn(method, [0])
    x, sealed = torch.randn(8, 32), method.bank[0]
    h = x
    layers = 0
    for name in ("linear1", "linear2"):
        base = method.network.backbone.get_submodule(f"{name}.base")
        assert isinstance(base, NF4Linear)
        A, B = (sealed[f"backbone.{name}.lora_{f}.weight"] for f in "AB")
        h = functional.relu(functional.linear(h, base.weight + 4 / 2 * B @ A, base.bias))
        layers += 1
    assert layers == 2
    with method.view(0) as network, torch.no_grad():
        torch.testing.assert_close(network.backbone(x), h, rtol=1e-5, atol=1e-5)


def test_convolutions_are_quantised_too(tmp_path: Path) -> None:
    half, dense = (
        run_one(experiment(f"{name}: {{rank: 2}}", model=CNN), tmp_path / name)
        for name in ("qlora", "lora")
    )
    assert half.result["isolated"]
    kept = [record.result["cost"] for record in (half, dense)]
    assert kept[0]["added_params_per_task"] == kept[1]["added_params_per_task"]
    assert kept[0]["total_params"] == kept[1]["total_params"]
    with load_run(dense.folder).view(0) as network:
        sizes = [layer.weight.numel() for layer in adapted_layers(network.backbone).values()]
    assert len(sizes) == 2
    # A code of half a byte for four, a byte a block of 64, and 4 + 4 of its scale and mean.
    saved = sum(4 * n - (math.ceil(n / 2) + math.ceil(n / 64) + 8) for n in sizes)
    assert kept[1]["stored_bytes"] - kept[0]["stored_bytes"] == saved > 0
