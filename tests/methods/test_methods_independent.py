from __future__ import annotations

from pathlib import Path

import pytest
import torch
from method_cases import CNN, OPTIMIZERS, run_one
from private_head_cases import experiment, learn, method_on, quick_fit

import lora_cl
from lora_cl.errors import ConfigError
from lora_cl.methods import Method
from lora_cl.methods.routing import ROUTERS

SMALL = "{independent: {hidden: [5, 3]}}"


def test_every_task_starts_from_the_base() -> None:
    method = method_on("independent")
    base = {name: tensor.clone() for name, tensor in method.network.backbone.state_dict().items()}
    assert len(base) == 4
    for task_id in range(3):
        task = method.benchmark.task(task_id)
        method.begin(task)
        with method.view(task_id) as network:
            start = network.backbone.state_dict()
            assert all(torch.equal(start[name], tensor) for name, tensor in base.items())
            heads = [h.weight.clone() for h in network.heads]
        learn_from_here(method, task_id)
        with method.view(task_id) as network:
            trained = network.backbone.state_dict()
            assert not any(torch.equal(trained[name], tensor) for name, tensor in base.items())
            assert not torch.equal(network.heads[0].weight, heads[0])
    after = method.network.backbone.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in base.items())


def learn_from_here(method: Method, task_id: int) -> None:
    method.learn(method.benchmark.task(task_id), quick_fit(method))


def test_smaller_networks_have_weights_of_their_own() -> None:
    method = method_on(SMALL)
    weights = []
    for task_id in (0, 1):
        method.begin(method.benchmark.task(task_id))
        with method.view(task_id) as network:
            assert network.backbone.linear1.weight.shape == (5, 32)
            assert network.backbone.linear2.weight.shape == (3, 5)
            assert network.heads[0].weight.shape == (2, 3)
            weights.append(network.backbone.linear1.weight.detach().clone())
        learn_from_here(method, task_id)
    assert not torch.equal(weights[0], weights[1])
    again = method_on(SMALL)
    again.begin(again.benchmark.task(0))
    with again.view(0) as network:
        assert torch.equal(network.backbone.linear1.weight, weights[0])


def test_widths_go_with_an_mlp() -> None:
    with pytest.raises(ConfigError, match="hidden goes with model mlp, not cnn"):
        method_on(SMALL, model=CNN)


def test_memory_does_not_grow() -> None:
    method = method_on("independent")
    before = sum(p.numel() for p in method.network.parameters())
    for task_id in range(3):
        learn(method, [task_id])
        assert sum(p.numel() for p in method.network.parameters()) == before
        assert sorted(method.bank) == list(range(task_id + 1))
        assert method.state_dict() == {}


def test_norm_statistics_are_sealed_and_are_no_parameters() -> None:
    method = method_on("independent", model=CNN)
    learn(method, [0, 1])
    assert (method.bank[0]["backbone.norm1.running_mean"] != 0).all()
    # conv 4*9, norm 2*4, linear 4*2*2*8 + 8, head 8*2 + 2.
    assert method.total_parameters() == 2 * (36 + 8 + 136 + 18)
    # Mean and variance of 4 channels, float32, and a counter of 8 bytes.
    assert method.stored_bytes() == 2 * (4 * 198 + 4 * 8 + 8)


def test_cost_by_hand(tmp_path: Path) -> None:
    cost = run_one(experiment("independent"), tmp_path).result["cost"]
    # A network: 32*16 + 16 + 16*16 + 16 + 16*2 + 2 = 834. The base is not needed any more.
    assert cost["trained_params_per_task"] == 834
    assert cost["added_params_per_task"] == 834
    assert cost["total_params"] == 3 * 834
    assert cost["stored_bytes"] == 4 * 3 * 834


def test_cost_of_smaller_networks_by_hand(tmp_path: Path) -> None:
    result = run_one(experiment(SMALL), tmp_path).result
    # 32*5 + 5 + 5*3 + 3 + 3*2 + 2 = 191.
    assert result["cost"]["trained_params_per_task"] == 191
    assert result["cost"]["total_params"] == 3 * 191
    assert result["cost"]["stored_bytes"] == 4 * 3 * 191
    assert result["details"] == {"parameters_per_task": [191, 191, 191]}


@pytest.mark.parametrize("router", ROUTERS)
def test_a_router_can_find_the_task(tmp_path: Path, router: str) -> None:
    one = experiment(f"{{independent: {{router: {router}}}}}", "class", OPTIMIZERS[1])
    record = run_one(one, tmp_path)
    assert record.result["needs_task_id"] is False
    assert record.result["routing"]["router"] == router
    assert lora_cl.load_run(record.folder).learned == [0, 1, 2]
