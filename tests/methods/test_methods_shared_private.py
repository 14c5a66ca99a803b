from __future__ import annotations

from pathlib import Path

import pytest
import torch
from method_cases import CNN, OPTIMIZERS, SCENARIOS, run_one, seen
from private_head_cases import experiment, learn, method_on
from torch import Tensor
from torch.nn import functional

from lora_cl.methods import Method
from lora_cl.methods.shared_private import difference_loss, normalized_difference_loss

FROZEN = "{shared_private: {private_dim: 4, shared_lr: 0}}"


def backbone(method: Method) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in method.network.backbone.state_dict().items()}


# The formulas


def test_difference_loss_by_hand() -> None:
    shared, private = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0], [-1.0]])
    # H_s^T H_p = [1 - 3, 2 - 4] = [-2, -2]; squares 4 + 4.
    assert difference_loss(shared, private).item() == 8.0


def test_difference_loss_of_orthogonal_features_is_zero() -> None:
    shared, private = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0], [-2.0]])
    assert difference_loss(shared, private).item() == 0.0


def test_normalized_difference_loss_by_hand() -> None:
    # Centred: rows (-1, 0), (1, 0) and -2, 2. Of length 1: (-1, 0), (1, 0) and -1, 1.
    # H_s^T H_p = [2, 0]; mean of squares 4 / 2.
    shared, private = torch.tensor([[2.0, 5.0], [4.0, 5.0]]), torch.tensor([[1.0], [5.0]])
    assert normalized_difference_loss(shared, private).item() == pytest.approx(2.0)
    assert normalized_difference_loss(9 * shared, private).item() == pytest.approx(2.0)


# The algorithm


@pytest.mark.parametrize("source", ["input", "features"])
def test_the_head_sees_shared_and_private_features(source: str) -> None:
    method = method_on(f"{{shared_private: {{private_dim: 4, private_input: {source}}}}}")
    learn(method, [0, 1])
    x = method.benchmark.task(1).test().x
    shared = method.network.backbone(x)
    branch = method.network.get_submodule("private.task-001.1")
    given = x if source == "input" else shared
    private = torch.relu(given @ branch.weight.T + branch.bias)
    head = method.network.heads["task-001"]
    assert head.weight.shape == (2, 20)
    logits = shared @ head.weight[:, :16].T + private @ head.weight[:, 16:].T + head.bias
    with method.view(1) as network:
        torch.testing.assert_close(network(x), logits)


def test_the_encoder_learns_slowly_after_the_first_task() -> None:
    method = method_on("{shared_private: {private_dim: 4, shared_lr: 0.25}}")
    encoder = list(method.network.backbone.parameters())
    scales = []
    for task_id in range(3):
        learn(method, [task_id])
        own, shared = method.param_groups()
        assert "lr_scale" not in own
        assert [id(p) for p in shared["params"]] == [id(p) for p in encoder]
        scales.append(shared["lr_scale"])
    assert scales == [1.0, 0.25, 0.25]


def test_the_scale_reaches_the_weights() -> None:
    moved = {}
    for scale in ("1", "0.1"):
        method = method_on(f"{{shared_private: {{shared_lr: {scale}}}}}")
        learn(method, [0])
        before = backbone(method)
        with torch.random.fork_rng():
            learn(method, [1])
        after = backbone(method)
        moved[scale] = sum(float((after[name] - before[name]).norm()) for name in before)
    assert 0.03 < moved["0.1"] / moved["1"] < 0.3


def test_rate_zero_freezes_the_encoder_after_the_first_task() -> None:
    method = method_on(FROZEN, model=CNN)
    states = [backbone(method)]
    for task_id in range(3):
        learn(method, [task_id])
        states.append(backbone(method))
    # conv, norm (weight, bias, mean, variance, counter), linear (weight, bias).
    assert len(states[0]) == 8
    assert not any(torch.equal(states[0][name], states[1][name]) for name in states[0])
    for later in states[2:]:
        assert all(torch.equal(states[1][name], later[name]) for name in later)


def test_private_parts_of_earlier_tasks_never_change() -> None:
    method = method_on("{shared_private: {private_dim: 4, difference: 0.01}}")
    learn(method, [0])
    own = ["private.task-000.1.weight", "private.task-000.1.bias"]
    own += ["heads.task-000.weight", "heads.task-000.bias"]
    before = {name: t.clone() for name, t in method.network.state_dict().items()}
    fingerprint = seen(method, 0)
    learn(method, [1, 2])
    after = method.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in own)
    assert not torch.equal(before["backbone.linear1.weight"], after["backbone.linear1.weight"]), (
        "the encoder goes on learning"
    )
    assert seen(method, 0) != fingerprint
    assert method.isolated is False


@pytest.mark.parametrize("variant", ["paper", "normalized"])
def test_the_difference_is_part_of_the_loss(variant: str) -> None:
    method = method_on(
        f"{{shared_private: {{private_dim: 4, difference: 0.5, difference_variant: {variant}}}}}"
    )
    method.begin(method.benchmark.task(0))
    samples = method.benchmark.task(0).train()
    x, y = samples.x[:9], samples.y[:9]
    with method.view(0) as network:
        features = network.backbone(x)
        loss = method.loss(network, x, y)
        plain = functional.cross_entropy(network(x), y)
    difference = {"paper": difference_loss, "normalized": normalized_difference_loss}[variant]
    expected = plain + 0.5 * difference(features[:, :16], features[:, 16:])
    assert loss.item() > plain.item() + 1e-4
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_difference_trains_both_sides() -> None:
    method = method_on("{shared_private: {private_dim: 4}}")
    method.begin(method.benchmark.task(0))
    x = method.benchmark.task(0).train().x
    with method.view(0) as network:
        features = network.backbone(x)
    difference_loss(features[:, :16], features[:, 16:]).backward()
    for part in ("backbone.linear1", "backbone.linear2", "private.task-000.1"):
        assert method.network.get_submodule(part).weight.grad.abs().sum() > 0


# The contract


@pytest.mark.parametrize("train", OPTIMIZERS, ids=["sgd", "adam"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_isolated_where_the_encoder_is_frozen(tmp_path: Path, scenario: str, train: str) -> None:
    record = run_one(experiment(FROZEN, scenario, train), tmp_path)
    assert record.result["isolated"] is True
    assert record.result["needs_task_id"] is (scenario != "task")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_not_isolated_by_default(tmp_path: Path, scenario: str) -> None:
    record = run_one(experiment("shared_private", scenario), tmp_path)
    assert record.result["isolated"] is False


def test_isolated_with_the_optimizer_kept_and_a_cnn(tmp_path: Path) -> None:
    train = OPTIMIZERS[0] + ", optimizer_state: keep"
    record = run_one(experiment(FROZEN, "domain", train, CNN), tmp_path)
    assert record.result["isolated"] is True


def test_cost_by_hand(tmp_path: Path) -> None:
    result = run_one(experiment("{shared_private: {private_dim: 4}}"), tmp_path).result
    cost = result["cost"]
    # Backbone 800. A task: branch 32*4 + 4 = 132, head (16 + 4)*2 + 2 = 42.
    assert result["details"] == {"private_parameters": [132, 132, 132]}
    assert cost["trained_params_per_task"] == 800 + 174
    assert cost["added_params_per_task"] == 174
    assert cost["total_params"] == 800 + 3 * 174
    assert cost["stored_bytes"] == 4 * (800 + 3 * 174)


def test_cost_with_a_frozen_encoder_by_hand(tmp_path: Path) -> None:
    one = experiment("{shared_private: {private_dim: 4, shared_lr: 0, private_input: features}}")
    cost = run_one(one, tmp_path).result["cost"]
    # The branch has 16*4 + 4 = 68, so a task adds 110; the first one trains the encoder too.
    assert cost["trained_params_per_task"] == pytest.approx((910 + 110 + 110) / 3)
    assert cost["total_params"] == 800 + 3 * 110
