"""SD-LoRA against its sum worked out by hand."""

from __future__ import annotations

import pytest
import torch
from method_cases import CNN, MLP, fit_of, learn_with, set_up, tiny
from torch import nn

from lora_cl.adapters import ScaledBranches, lora_delta, one_branch, wrap
from lora_cl.methods.sd_lora import SDLoRA, fixed_direction, norm_of, side_by_side
from lora_cl.methods.summed import factors


def made(options: str = "rank: 2", scenario: str = "task", model: str = MLP) -> SDLoRA:
    method = set_up(tiny(f"sd_lora: {{{options}}}", scenario, model))
    assert isinstance(method, SDLoRA)
    return method


def branch(*, magnitude: float = 0.5) -> ScaledBranches:
    """B A = [[6, 8], [0, 0]], of length 10; ||A|| = 5 and ||B|| = 2."""
    return one_branch(torch.tensor([[3.0, 4.0]]), torch.tensor([[2.0], [0.0]]), magnitude)


def test_two_branches_by_hand() -> None:
    other = one_branch(torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0], [5.0]]), 3.0)
    both = side_by_side(fixed_direction(branch(), "kept"), fixed_direction(other, "kept"))
    # Directions [[0.6, 0.8], [0, 0]] and [[0, 0], [0, 1]], magnitudes 0.5 * 10 and 3 * 5.
    assert both.magnitude.weight.tolist() == pytest.approx([5.0, 15.0])
    assert both.branch.tolist() == [0, 1]
    layer = nn.Linear(2, 2, bias=False)
    x = torch.tensor([[1.0, 2.0]])
    change = both(x, torch.zeros(1, 2), layer)
    assert change[0].tolist() == pytest.approx([5 * (0.6 + 1.6), 15 * 2.0])
    both.magnitude.weight.data = torch.tensor([1.0, -1.0])
    assert both(x, torch.zeros(1, 2), layer)[0].tolist() == pytest.approx([2.2, -2.0])


def test_two_norms_by_hand() -> None:
    one = factors(branch())
    assert float(norm_of(one, "kept")) == pytest.approx(10.0)
    assert float(norm_of(one, "restart")) == pytest.approx(10.0)  # Equal at rank 1.
    two = (torch.eye(2), torch.eye(2))
    assert float(norm_of(two, "kept")) == pytest.approx(2**0.5)
    assert float(norm_of(two, "restart")) == pytest.approx(2.0)


def test_a_branch_that_learned_nothing_has_no_direction() -> None:
    nothing = one_branch(torch.ones(1, 2), torch.zeros(2, 1), 0.8)
    fixed = fixed_direction(nothing, "kept")
    assert fixed.magnitude.weight.tolist() == pytest.approx([0.8])
    assert bool(fixed.lora_A.weight.isfinite().all())


@pytest.mark.parametrize("model", [MLP, CNN])
@pytest.mark.parametrize("magnitudes", ["kept", "restart"])
def test_the_network_is_the_sum_of_the_branches(magnitudes: str, model: str) -> None:
    method = made(f"rank: 2, magnitudes: {magnitudes}", model=model)
    learn_with(method, [0, 1, 2], fit_of(method))
    assert {len(past.magnitude.weight) for past in method._scaled(method.past()).values()} == {2}
    for name, current in method._scaled(method.current()).items():
        layer = method.network.backbone.get_submodule(name)
        past = method._scaled(method.past())[name]
        weight = layer.base.weight.clone()  # type: ignore[union-attr,operator]
        for k in range(2):
            rows = past.branch == k
            A, B = past.lora_A.weight[rows], past.lora_B.weight
            B = B[:, rows] if B.dim() == 2 else B[:, rows, :, :]
            weight += past.magnitude.weight[k] * lora_delta(A, B, 1.0)
            if magnitudes == "kept":
                assert float(lora_delta(A, B, 1.0).norm()) == pytest.approx(1.0, rel=1e-4)
            else:
                assert float(A.norm() * B.norm()) == pytest.approx(1.0, rel=1e-4)
        weight += current.magnitude.weight * lora_delta(*factors(current), 1.0)
        torch.testing.assert_close(layer.merged().weight, weight)  # type: ignore[operator]


def test_a_new_task_begins_where_the_last_one_ended() -> None:
    changes = {}
    for magnitudes in ("kept", "restart"):
        method = made(f"rank: 2, magnitudes: {magnitudes}")
        x = method.benchmark.task(0).test().x
        learn_with(method, [0], fit_of(method, lr=0.1))
        before = method.network.backbone(x).detach()
        method.begin(method.benchmark.task(1))
        after = method.network.backbone(x).detach()
        changes[magnitudes] = float((after - before).abs().max())
    assert changes["kept"] < 1e-5
    assert changes["restart"] > 1e-3


def test_only_the_branch_the_magnitudes_and_the_head_train() -> None:
    method = made()
    learn_with(method, [0], fit_of(method))
    method.begin(method.benchmark.task(1))
    names = {n for n, p in method.network.named_parameters() if p.requires_grad}
    kinds = {name.partition("adapters.")[2] or name for name in names}
    assert kinds == {
        "current.lora_A.weight",
        "current.lora_B.weight",
        "current.magnitude.weight",
        "past.magnitude.weight",
        "heads.task-001.weight",
        "heads.task-001.bias",
    }
    A = {k: p.lora_A.weight.clone() for k, p in method._scaled(method.past()).items()}
    a = {k: p.magnitude.weight.clone() for k, p in method._scaled(method.past()).items()}
    method.learn(method.benchmark.task(1), fit_of(method, weight_decay=0.1))
    for name, past in method._scaled(method.past()).items():
        assert torch.equal(past.lora_A.weight, A[name])
        assert not torch.equal(past.magnitude.weight, a[name])


def test_what_is_recorded() -> None:
    method = made()
    assert method.details() == {"magnitudes": {}}
    learn_with(method, [0, 1], fit_of(method))
    found = method.details()["magnitudes"]
    assert list(found) == ["linear1", "linear2"]
    for layer, values in found.items():
        past = method._scaled(method.past())[layer].magnitude.weight
        current = method._scaled(method.current())[layer]
        whole = current.magnitude.weight * lora_delta(*factors(current), 1.0).norm()
        assert values == pytest.approx([past[0].tolist(), whole[0].tolist()])


def test_b_at_zero_is_the_base_bit_for_bit() -> None:
    backbone = nn.Sequential(nn.Linear(6, 5))
    wrap(backbone, ["0"])
    layer = backbone[0]
    x = torch.randn(4, 6)
    before = layer(x)
    layer.adapters["a"] = one_branch(torch.randn(2, 6), torch.zeros(5, 2), 0.8)
    layer.active = ("a",)
    assert torch.equal(layer(x), before)
