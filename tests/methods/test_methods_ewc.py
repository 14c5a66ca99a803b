from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from method_cases import run_one
from shared_backbone_cases import (
    accuracies,
    experiment,
    last_mean,
    learn,
    method_on,
    options,
    trunk_bytes,
)
from torch import Tensor

from lora_cl.errors import ConfigError
from lora_cl.methods.ewc import EWC, add_quadratics, ewc_penalty, quadratic
from lora_cl.methods.fisher import fisher_diagonal


def ewc(scenario: str = "task", adapter: str = "", more: str = "", **named: Any) -> EWC:
    method = method_on(options("ewc", adapter, more), scenario, **named)
    assert isinstance(method, EWC)
    return method


# The formulas


def test_the_penalty_by_hand() -> None:
    # lambda / 2 (F_1 (t - a_1)^2 + F_2 (t - a_2)^2), lambda = 10:
    # task 1: 2 (3 - 1)^2 + 1 (0 - 1)^2 = 9; task 2: 0.5 (3 - 5)^2 + 4 (0 - 0)^2 = 2; 5 * 11 = 55.
    theta = torch.tensor([3.0, 0.0])
    anchors = [torch.tensor([1.0, 1.0]), torch.tensor([5.0, 0.0])]
    fishers = [torch.tensor([2.0, 1.0]), torch.tensor([0.5, 4.0])]
    assert float(ewc_penalty(theta, anchors, fishers, 10.0)) == 55.0


def test_two_quadratics_are_one() -> None:
    # 1 (t - 0)^2 + 3 (t - 4)^2 = 4 (t - 3)^2 + 12, from t = 0: 48 = 36 + 12. Without weight, the
    # anchor is the later one and nothing is added.
    weight, anchor, constant = add_quadratics(
        torch.tensor([1.0, 0.0]),
        torch.tensor([0.0, 1.0]),
        torch.tensor([3.0, 0.0]),
        torch.tensor([4.0, 2.0]),
    )
    assert weight.tolist() == [4.0, 0.0]
    assert anchor.tolist() == [3.0, 2.0]
    assert float(constant) == 12.0


def test_many_quadratics_keep_value_and_gradient() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        return torch.randn(50, generator=generator)

    anchors, fishers = [draw() for _ in range(6)], [draw().square() for _ in range(6)]
    fishers[2][:10] = 0.0
    weight, anchor, constant = torch.zeros(50), anchors[0], torch.zeros(())
    for a, f in zip(anchors, fishers, strict=True):
        weight, anchor, more = add_quadratics(weight, anchor, f, a)
        constant = constant + more
    theta = draw().requires_grad_()
    whole = ewc_penalty(theta, anchors, fishers, 2.0)
    one = quadratic(theta, anchor, weight) + constant
    torch.testing.assert_close(one, whole, rtol=1e-5, atol=0)
    gradients = [torch.autograd.grad(value, theta)[0] for value in (one, whole)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-4)


def test_close_to_the_anchor_nothing_is_lost_to_rounding() -> None:
    # Tasks that ended 1e-4 apart, around 100. F t^2 - 2 t F a + F a^2 in single precision is a
    # difference of numbers near 1e4, each off by about 1e-3; the truth is 4 * 1e-8 / 2.
    a, b = torch.tensor([100.0]), torch.tensor([100.0 + 2**-13])
    one = torch.ones(1)
    weight, anchor, constant = add_quadratics(one, a, one, b)
    apart = 2.0**-13
    at_a = quadratic(a, anchor, weight) + constant
    assert float(at_a) == pytest.approx(apart**2, rel=0.1)


# The method


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_the_penalty_is_the_sum_over_tasks(scenario: str) -> None:
    method = ewc(scenario, more="strength: 100.0")
    anchors, fishers = [], []
    for task_id in range(2):
        learn(method, [task_id])
        task = method.benchmark.task(task_id)
        shared = method.shared_parameters()
        samples = task.train()
        with method.view(task_id) as network:
            y = samples.y + network.offsets[task_id]
            fishers.append(fisher_diagonal(network, shared, samples.x, y, "exact"))
        anchors.append({name: p.detach().clone() for name, p in shared.items()})
    with torch.no_grad():
        for parameter in method.network.parameters():
            parameter += 0.1
    parts = [
        ewc_penalty(p, [a[name] for a in anchors], [f[name] for f in fishers], 100.0)
        for name, p in shared.items()
    ]
    assert len(parts) == (4 if scenario == "task" else 6)
    penalty = method.penalty()
    assert penalty is not None
    torch.testing.assert_close(penalty, torch.stack(parts).sum(), rtol=1e-4, atol=0)
    kept = [name.removeprefix("fisher.") for name in method.kept if name.startswith("fisher.")]
    heads = [name for name in kept if name.startswith("heads.")]
    assert heads == ([] if scenario == "task" else ["heads.shared.weight", "heads.shared.bias"])


def test_online_forgets_by_gamma_and_holds_to_the_latest_weights() -> None:
    method = ewc(more="strength: 1.0, variant: online, gamma: 0.5")
    learn(method, [0])
    first = {k: v.clone() for k, v in method.kept.items() if k.startswith("fisher.")}
    learn(method, [1])
    fresh = method.fisher(method.benchmark.task(1))
    assert len(first) == 4
    for name, parameter in method.shared_parameters().items():
        right = 0.5 * first[f"fisher.{name}"] + fresh[name]
        torch.testing.assert_close(method.kept[f"fisher.{name}"], right)
        assert torch.equal(method.kept[f"anchor.{name}"], parameter)
    penalty = method.penalty()
    assert penalty is not None
    assert float(penalty.detach()) == 0.0


def test_classes_not_seen_carry_no_information() -> None:
    method = ewc("class")
    learn(method, [0])
    rows = method.kept["fisher.heads.shared.weight"].sum(1)
    assert rows.shape == (6,)
    assert float(rows[:2].min()) > 0
    assert rows[2:].tolist() == [0.0] * 4


def test_samples_are_limited_and_labels_drawn_from_their_own_streams() -> None:
    def fisher(more: str) -> Tensor:
        method = ewc(more=more)
        learn(method, [0])
        return method.kept["fisher.backbone.linear1.weight"]

    some = fisher("fisher_samples: 5")
    assert torch.equal(some, fisher("fisher_samples: 5"))
    assert not torch.equal(some, fisher(""))
    assert torch.equal(fisher("fisher_samples: 48"), fisher("fisher_samples: 1000"))
    drawn, expected = fisher("fisher: sampled"), fisher("fisher: exact")
    assert torch.equal(drawn, fisher("fisher: sampled"))
    assert not torch.equal(drawn, expected)
    # 48 samples: the sums agree roughly, and no factor such as the batch size is missing.
    assert 0.3 < float(drawn.sum() / expected.sum()) < 3.0


def test_strength_holds_the_trunk() -> None:
    moved = []
    for strength in ("0.0", "1e2", "1e3"):
        method = ewc(more=f"strength: {strength}")
        learn(method, [0])
        before = [p.detach().clone() for p in method.shared_parameters().values()]
        weights = [method.kept[f"fisher.{name}"] for name in method.shared_parameters()]
        learn(method, [1], steps=30)
        after = method.shared_parameters().values()
        pairs = zip(before, after, weights, strict=True)
        moved.append(sum(float((w * (a - b).square()).sum().detach()) for b, a, w in pairs))
    assert moved[0] > 1.3 * moved[1] > 2 * moved[2] > 0


def test_strength_zero_is_full(tmp_path: Path) -> None:
    results = [
        run_one(experiment(yaml, "class"), tmp_path / str(number)).result
        for number, yaml in enumerate(("{method: ewc, strength: 0.0}", "{method: full}"))
    ]
    assert results[0]["accuracy_matrix"] == results[1]["accuracy_matrix"]


@pytest.mark.parametrize("variant", ["separate", "online"])
def test_stored_bytes_do_not_grow_with_tasks_but_for_heads(variant: str) -> None:
    method = ewc(more=f"variant: {variant}")
    trunk, head = trunk_bytes(method), 4 * (16 * 2 + 2)
    assert method.stored_bytes() == trunk
    # A Fisher and an anchor a number of the trunk, and the constant.
    for task_id in range(3):
        learn(method, [task_id])
        assert method.stored_bytes() == 3 * trunk + 4 + (task_id + 1) * head
    assert method.trained_parameters() == (trunk + head) // 4
    assert method.total_parameters() == (trunk + 3 * head) // 4


def test_over_lora_only_the_adapter_is_held() -> None:
    method = ewc(adapter="lora")
    learn(method, [0, 1])
    held = [name for name in method.kept if name.startswith("fisher.")]
    # Rank 2 on 32-16 and 16-16: 2 (32 + 16) + 2 (16 + 16) numbers in four matrices.
    assert len(held) == 4
    assert sum(method.kept[name].numel() for name in held) == 160
    assert all("lora_" in name for name in held)


def test_learns_and_holds(tmp_path: Path) -> None:
    matrix = accuracies("{method: ewc, strength: 1e3}", "task", tmp_path)
    assert 0.7 < last_mean(matrix) <= 1.0
    first, last = matrix[0][0], matrix[2][0]
    assert first is not None
    assert last is not None
    assert abs(first - last) < 0.05


def test_refused_options() -> None:
    refused = ("strength: -1", "variant: both", "gamma: 1.5", "fisher: true", "lambda: 3")
    for more in refused:
        with pytest.raises(ConfigError):
            experiment(options("ewc", more=more))
