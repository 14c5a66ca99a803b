"""AdaLoRA's budget, importance and pruning against a hand-written reference."""

import copy

import adapters_reference as reference
import numpy as np
import pytest
import torch
from torch import nn

from lora_cl.adapters import (
    AdaptedLayer,
    RankAllocator,
    budget_schedule,
    make_adalora,
    mask_to_budget,
    orthogonality_penalty,
    triplet_scores,
    update_sensitivity,
)
from lora_cl.errors import MethodError


def test_budget_by_hand():
    # T = 100, t_i = 10, t_f = 20, b0 = 24, bT = 8. At t = 45 half of the 70 steps are gone:
    # 8 + 16 (1/2)^3 = 10. At t = 10 nothing is gone: 24. From t = 80 on: 8.
    schedule = [budget_schedule(t, 100, 24, 8, 10, 20) for t in (0, 1, 10, 45, 80, 81, 100)]
    assert schedule == [24, 24, 24, 10, 8, 8, 8]


def test_budget_against_reference():
    checked = 0
    for T, b0, bT, ti, tf in [(100, 24, 8, 10, 20), (37, 9, 9, 0, 0), (50, 100, 1, 49, 0)]:
        budgets = [budget_schedule(t, T, b0, bT, ti, tf) for t in range(1, T + 1)]
        assert budgets == [reference.budget(t, T, b0, bT, ti, tf) for t in range(1, T + 1)]
        assert budgets == sorted(budgets, reverse=True)
        assert budgets[-1] == bT
        checked += len(budgets)
    assert checked == 187


def test_sensitivity_against_reference():
    rng = np.random.default_rng(0)
    expected = reference.Importance((3, 4))
    importance, uncertainty = torch.zeros(3, 4).double(), torch.zeros(3, 4).double()
    for _ in range(5):
        w, g = rng.normal(size=(2, 3, 4))
        expected.update(w, g)
        update_sensitivity(importance, uncertainty, torch.tensor(w), torch.tensor(g), 0.85, 0.85)
    np.testing.assert_allclose(importance, expected.smooth, rtol=1e-12)
    np.testing.assert_allclose(uncertainty, expected.uncertain, rtol=1e-12)
    assert expected.score.max() > 0.01


def test_triplet_scores_against_reference():
    rng = np.random.default_rng(0)
    s_P, s_E, s_Q = rng.random((6, 3)), rng.random((3, 1)), rng.random((3, 5))
    ours = triplet_scores(*(torch.tensor(s) for s in (s_P, s_E, s_Q)))
    np.testing.assert_allclose(ours, reference.triplet_score(s_P, s_E[:, 0], s_Q), rtol=1e-12)


def test_the_budget_is_global_over_the_layers():
    scores = {"a": torch.tensor([5.0, 1.0]), "b": torch.tensor([4.0, 3.0, 2.0])}
    kept = {name: mask.tolist() for name, mask in mask_to_budget(scores, 3).items()}
    assert kept == {"a": [True, False], "b": [True, True, False]}


@pytest.mark.parametrize(("budget", "alive"), [(0, 0), (1, 1), (4, 4), (5, 5), (9, 5)])
def test_any_budget_also_one_that_keeps_all(budget, alive):
    scores = {"a": torch.tensor([5.0, 1.0]), "b": torch.tensor([4.0, 3.0, 2.0])}
    assert sum(int(m.sum()) for m in mask_to_budget(scores, budget).values()) == alive


def test_ties_keep_exactly_the_budget():
    masks = mask_to_budget({"a": torch.zeros(4), "b": torch.zeros(4)}, 3)
    assert masks["a"].tolist() == [True, True, True, False]
    assert not masks["b"].any()


def test_orthogonality_penalty_by_hand():
    # Q has rows (1, 0) and (1, 1): Q Q^T - I = [[0, 1], [1, 1]], squared sum 3.
    # P^T P = diag(4, 1) - I = diag(3, 0), squared sum 9. A second layer is off by 4 and by 0.
    Q = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    P = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    second = torch.tensor([[5.0**0.5], [0.0]]), torch.tensor([[0.6, 0.8]])
    assert orthogonality_penalty([(P, Q)], "squared").item() == pytest.approx(12)
    assert orthogonality_penalty([(P, Q), second], "squared").item() == pytest.approx(12 + 16)
    mean = (3 + 3**0.5 + 4 + 0) / 4
    assert orthogonality_penalty([(P, Q), second], "norm").item() == pytest.approx(mean)


@pytest.mark.parametrize("form", ["norm", "squared"])
def test_orthogonal_factors_cost_nothing_and_are_not_moved(form):
    P, Q = torch.eye(6, 2, requires_grad=True), torch.eye(2, 5, requires_grad=True)
    penalty = orthogonality_penalty([(P, Q)], form)
    penalty.backward()
    assert penalty == 0
    assert not P.grad.any()
    assert not Q.grad.any()


@pytest.mark.parametrize(("form", "start"), [("norm", 3**0.5), ("squared", 6.0)])
def test_the_penalty_is_alive_and_makes_the_factors_orthogonal(form, start):
    adapter = make_adalora(nn.Linear(8, 6), rank=3, alpha=3, generator=torch.Generator())
    factors = [(adapter.lora_B, adapter.lora_A)]
    optimizer = torch.optim.SGD([adapter.lora_A, adapter.lora_B], lr=0.05)
    # Nearly zero matrices: ||-I||_F = sqrt(3), twice.
    assert 0.95 * start < orthogonality_penalty(factors, form).item() < start
    for _ in range(300):
        optimizer.zero_grad()
        orthogonality_penalty(factors, form).backward()
        optimizer.step()
    assert orthogonality_penalty(factors, form) < (0.1 if form == "norm" else 1e-3)


def build(seed=0):
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    layers = {"0": AdaptedLayer(nn.Linear(6, 5)), "2": AdaptedLayer(nn.Linear(5, 3))}
    adapters = {}
    for name, layer in layers.items():
        adapters[name] = make_adalora(layer.base, rank=4, alpha=4, generator=generator)
        layer.adapters["task"] = adapters[name]
        layer.active = ("task",)
    return nn.Sequential(layers["0"], nn.ReLU(), layers["2"]), adapters


def train(model, allocator, optimizer, steps):
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(16, 6, generator=generator), torch.randn(16, 3, generator=generator)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
        allocator.after_step(step)


def start(total=40, **changes):
    model, adapters = build()
    options = {"target_rank": 2, "warmup_steps": 5, "final_steps": 10, **changes}
    allocator = RankAllocator(adapters, total_steps=total, **options)
    parameters = [p for p in model.parameters() if p.requires_grad]
    return model, adapters, allocator, torch.optim.Adam(parameters, lr=0.02)


def test_allocator_against_reference_step_by_step():
    model, adapters, allocator, optimizer = start(interval=3)
    parts = ("lora_B", "lora_E", "lora_A")
    expected = {
        (layer, part): reference.Importance(tuple(adapter.get_parameter(part).shape))
        for layer, adapter in adapters.items()
        for part in parts
    }
    choices = 0
    for step in range(1, 41):
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (model(x) - x[:, :3]).square().mean().backward()
        optimizer.step()
        if step <= 30:
            for (layer, part), importance in expected.items():
                parameter = adapters[layer].get_parameter(part)
                importance.update(parameter.detach().numpy(), parameter.grad.numpy())
        allocator.after_step(step)
        if step == 30 or (5 < step < 30 and step % 3 == 0):
            scores = np.concatenate(
                [
                    reference.triplet_score(
                        expected[layer, "lora_B"].score,
                        expected[layer, "lora_E"].score[:, 0],
                        expected[layer, "lora_A"].score,
                    )
                    for layer in adapters
                ]
            )
            best = np.argsort(-scores)[: reference.budget(step, 40, 8, 4, 5, 10)]
            alive = np.isin(np.arange(8), best)
            lambdas = torch.cat([a.lora_E.detach().flatten() for a in adapters.values()])
            assert (lambdas != 0).tolist() == alive.tolist()
            choices += 1
    assert choices == 9  # steps 6, 9, ..., 27, and 30


def test_the_budget_is_met_and_stays_met():
    model, adapters, allocator, optimizer = start()
    train(model, allocator, optimizer, range(1, 31))
    chosen = allocator.ranks()
    assert sum(chosen.values()) == 4
    train(model, allocator, optimizer, range(31, 41))
    assert allocator.ranks() == chosen
    assert {n: int((a.lora_E != 0).sum()) for n, a in adapters.items()} == chosen
    x = torch.randn(9, 6)
    before = model(x)
    assert {n: a.compact() for n, a in adapters.items()} == chosen
    torch.testing.assert_close(model(x), before, rtol=1e-6, atol=1e-6)


def test_nothing_is_pruned_when_the_target_is_the_initial_rank():
    model, adapters, allocator, optimizer = start(target_rank=4)
    train(model, allocator, optimizer, range(1, 41))
    assert allocator.ranks() == {"0": 4, "2": 4}
    assert all((a.lora_E != 0).all() for a in adapters.values())


def test_a_pruned_triplet_can_come_back_before_the_end():
    model, adapters, allocator, optimizer = start(total=40, interval=2)
    train(model, allocator, optimizer, range(1, 27))
    pruned = torch.cat([a.lora_E.detach() for a in adapters.values()]) == 0
    assert pruned.sum() >= 3
    train(model, allocator, optimizer, [27])  # between two choices
    assert (torch.cat([a.lora_E.detach() for a in adapters.values()])[pruned] != 0).all()


def test_resuming_gives_the_same_bits():
    model, _, allocator, optimizer = start()
    train(model, allocator, optimizer, range(1, 18))
    saved = allocator.state_dict()
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    moments = copy.deepcopy(optimizer.state_dict())
    model2, _, allocator2, optimizer2 = start()
    model2.load_state_dict(weights)
    optimizer2.load_state_dict(moments)
    allocator2.load_state_dict(saved)
    train(model2, allocator2, optimizer2, range(18, 41))
    train(model, allocator, optimizer, range(18, 41))
    assert all(torch.equal(v, model2.state_dict()[k]) for k, v in model.state_dict().items())
    assert allocator.ranks() == allocator2.ranks()
    assert all(isinstance(tensor, torch.Tensor) for tensor in saved.values())
    with pytest.raises(MethodError, match="other adapters"):
        allocator2.load_state_dict({})


def test_refusals():
    with pytest.raises(MethodError, match="leave none of the task's 15 to prune in"):
        start(total=15)
    with pytest.raises(MethodError, match="target_rank 5 is above the initial rank 4"):
        start(target_rank=5)
    _, _, allocator, _ = start()
    with pytest.raises(MethodError, match=r"0\.lora_A has no gradient"):
        allocator.after_step(1)


def test_a_layer_without_triplets_is_its_base():
    layer = AdaptedLayer(nn.Conv2d(3, 4, 3))
    adapter = make_adalora(layer.base, rank=2, alpha=2, generator=torch.Generator())
    layer.adapters["task"] = adapter
    layer.active = ("task",)
    assert adapter.compact() == 0
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(layer(x), layer.base(x))
    assert torch.equal(layer.merged()(x), layer.base(x))
