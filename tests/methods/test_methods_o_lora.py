from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from low_rank_cases import (
    experiment,
    learn,
    method_on,
    quick_fit,
)
from method_cases import OPTIMIZERS, SCENARIOS, run_one, seen
from torch.nn import functional

from lora_cl.adapters import adapted_layers
from lora_cl.adapters.lora import lora_delta
from lora_cl.errors import MethodError
from lora_cl.methods.o_lora import OLoRA, branch_overlap
from lora_cl.methods.summed import stack_branches

OLORA = "o_lora: {rank: 2, alpha: 4}"


def o_lora(*args: Any, **named: Any) -> OLoRA:
    method = method_on(*args, **named)
    assert isinstance(method, OLoRA)
    return method


# The formulas


def test_overlap_by_hand() -> None:
    # A_1 = [[1, 0, 2]], A_2 = [[0, 1, 1]], A_3 = [[1, -3, 0], [0, 0, -1]]. A_1 A_3^T = [1, -2] and
    # A_2 A_3^T = [-3, -1]: magnitudes 1 + 2 + 3 + 1 = 7, squares 1 + 4 + 9 + 1 = 15.
    past = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]])
    A = torch.tensor([[1.0, -3.0, 0.0], [0.0, 0.0, -1.0]])
    assert branch_overlap(past, A, "absolute") == 7
    assert branch_overlap(past, A, "squared") == 15
    # In two groups the first row of each only meets the first of the other, the second the second.
    assert branch_overlap(past, A, "absolute", groups=2) == 1 + 1


def test_stacked_branches_are_the_sum() -> None:
    first = torch.randn(2, 5), torch.randn(4, 2)
    second = torch.randn(3, 5), torch.randn(4, 3)
    A, B = stack_branches(first, second)
    expected = first[1] @ first[0] + second[1] @ second[0]
    torch.testing.assert_close(B @ A, expected, rtol=1e-5, atol=1e-5)


def test_stacked_branches_of_a_grouped_convolution_are_the_sum() -> None:
    # Two groups: c_in = 6, c_out = 4, so A (r, 3, 2, 2) and B (4, r / 2, 1, 1).
    first = torch.randn(2, 3, 2, 2), torch.randn(4, 1, 1, 1)
    second = torch.randn(4, 3, 2, 2), torch.randn(4, 2, 1, 1)
    A, B = stack_branches(first, second)
    assert A.shape == (6, 3, 2, 2)
    expected = lora_delta(*first, 1.0) + lora_delta(*second, 1.0)
    torch.testing.assert_close(lora_delta(A, B, 1.0), expected, rtol=1e-5, atol=1e-5)


# The penalty


@pytest.mark.parametrize("overlap", ["squared", "absolute"])
def test_the_penalty_is_over_all_earlier_branches(overlap: str) -> None:
    method = o_lora(f"o_lora: {{rank: 2, orthogonality: 0.3, overlap: {overlap}}}")
    earlier: dict[str, list[np.ndarray[Any, Any]]] = {"linear1": [], "linear2": []}
    for task_id in range(3):
        method.begin(method.benchmark.task(task_id))
        expected, products = 0.0, 0
        for layer, branch in method.current().items():
            A = branch.lora_A.weight.detach().double().numpy()
            for A_i in earlier[layer]:
                for row in A_i:
                    for new in A:
                        product = abs(float(np.dot(row, new)))
                        expected += product**2 if overlap == "squared" else product
                        products += 1
            earlier[layer].append(A)
        assert products == task_id * 2 * 4
        penalty = method.penalty()
        if task_id == 0:
            assert penalty is None
            continue
        assert penalty is not None
        assert float(penalty.detach()) == pytest.approx(0.3 * expected, rel=1e-5)
        penalty.backward()
        for layer, branch in method.current().items():
            gradient = branch.lora_A.weight.grad
            assert gradient is not None
            assert gradient.abs().max() > 1e-3
            assert branch.lora_B.weight.grad is None
            assert method.past()[layer].lora_A.weight.grad is None


def test_the_penalty_makes_branches_orthogonal() -> None:
    overlaps = []
    for weight in (0.0, 0.5):
        method = o_lora(f"o_lora: {{rank: 2, alpha: 2, init: gaussian, orthogonality: {weight}}}")
        learn(method, [0, 1], steps=40)
        overlaps.append(sum(method.details()["overlap"].values()))
    assert overlaps[0] > 0.5
    assert overlaps[1] < 0.05 * overlaps[0]


# Branches over tasks


def test_earlier_branches_stay_bit_for_bit_and_all_are_summed() -> None:
    method = o_lora(OLORA)
    kept: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {"linear1": [], "linear2": []}
    for task_id in range(3):
        learn(method, [task_id])
        for layer, branch in method.current().items():
            A, B = branch.lora_A.weight, branch.lora_B.weight
            kept[layer].append((A.detach().clone(), B.detach().clone()))
    x = torch.randn(8, 32)
    h, checked = x, 0
    for layer, adapted in adapted_layers(method.network.backbone).items():
        past = method.past()[layer]
        assert torch.equal(past.lora_A.weight, torch.cat([A for A, _ in kept[layer][:2]]))
        assert torch.equal(past.lora_B.weight, torch.cat([B for _, B in kept[layer][:2]], dim=1))
        assert len(adapted.adapters) == 2
        weight = adapted.base.get_parameter("weight")
        for A, B in kept[layer]:
            assert B.abs().max() > 1e-4
            weight = weight + 4 / 2 * B @ A
        h = functional.relu(functional.linear(h, weight, adapted.base.get_parameter("bias")))
        checked += 1
    assert checked == 2
    for task_id in range(3):
        with method.view(task_id) as network, torch.no_grad():
            torch.testing.assert_close(network.backbone(x), h, rtol=1e-5, atol=1e-5)


def test_a_new_branch_changes_nothing_until_it_trains() -> None:
    method, x = o_lora(OLORA), torch.randn(8, 32)
    learn(method, [0, 1])
    with torch.no_grad():
        before = method.network.backbone(x)
        method.begin(method.benchmark.task(2))
        torch.testing.assert_close(method.network.backbone(x), before, rtol=1e-5, atol=1e-6)


def test_earlier_tasks_change() -> None:
    method = o_lora(OLORA)
    learn(method, [0])
    before = seen(method, 0)
    learn(method, [1])
    assert seen(method, 0) != before
    assert not method.isolated


def test_a_layer_that_is_never_called_is_found() -> None:
    method = o_lora(OLORA)
    task = method.benchmark.task(0)
    method.begin(task)
    layer = adapted_layers(method.network.backbone)["linear1"]
    method.network.backbone.forward = layer.forward  # type: ignore[method-assign]
    with pytest.raises(MethodError, match="layer linear2 gets no gradient"):
        quick_fit(method)([task])


# Runs


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_runs_in_every_scenario(tmp_path: Path, scenario: str, optimizer: str) -> None:
    record = run_one(experiment(OLORA, scenario, optimizer, duration="epochs: 12"), tmp_path)
    assert not record.result["isolated"]
    assert not record.result["needs_task_id"]
    matrix = record.result["accuracy_matrix"]
    assert sum(matrix[k][k] for k in range(3)) / 3 > 0.7
    assert set(record.result["details"]["overlap"]) == {"linear1", "linear2"}


def test_costs_by_hand(tmp_path: Path) -> None:
    # A branch: 2 (32 + 16) + 2 (16 + 16) = 160; a head: 2 * 16 + 2 = 34; the base: 800. All
    # branches act for every task and can be merged, but are stored as they are.
    cost = run_one(experiment(OLORA), tmp_path).result["cost"]
    assert cost["trained_params_per_task"] == 160 + 34
    assert cost["added_params_per_task"] == 34
    assert cost["total_params"] == 800 + 3 * 34
    assert cost["stored_bytes"] == 4 * (800 + 3 * 194)


def test_costs_with_one_head_by_hand(tmp_path: Path) -> None:
    # One head for all six classes: 6 * 16 + 6 = 102, of which a task's classes take 34.
    cost = run_one(experiment(OLORA, "class"), tmp_path).result["cost"]
    assert cost["trained_params_per_task"] == 160 + 102
    assert cost["added_params_per_task"] == 34
    assert cost["total_params"] == 800 + 102
    assert cost["stored_bytes"] == 4 * (800 + 3 * 160 + 102)


def test_details_of_a_network_that_diverged_are_json() -> None:
    method = o_lora(OLORA)
    learn(method, [0, 1])
    assert all(value >= 0 for value in method.details()["overlap"].values())
    with torch.no_grad():
        method.current()["linear1"].lora_A.weight.fill_(float("nan"))
    assert method.details()["overlap"]["linear1"] is None
    assert method.details()["overlap"]["linear2"] >= 0
