from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from shared_backbone_cases import (
    CASES,
    CNN,
    accuracies,
    assert_goes_on_from_its_state,
    assert_interruption_changes_nothing,
    experiment,
    last_mean,
    learn,
    method_on,
    options,
    run_one,
    sgd_fit,
    trunk_bytes,
)
from torch import Tensor, nn
from torch.nn import functional

from lora_cl.errors import ConfigError
from lora_cl.methods.lwf import LwF, distillation
from lora_cl.models import training_mode


def lwf(scenario: str = "task", adapter: str = "", more: str = "", **named: Any) -> LwF:
    method = method_on(options("lwf", adapter, more), scenario, **named)
    assert isinstance(method, LwF)
    return method


# The formula


def test_distillation_by_hand() -> None:
    # T = 2: the teacher's (2 ln 3, 0) / 2 gives q = (3/4, 1/4), the student's p = (1/2, 1/2).
    # -T^2 sum q ln p = 4 ln 2, with the factor 4.
    student, teacher = torch.zeros(1, 2), torch.tensor([[2 * math.log(3), 0.0]])
    assert float(distillation(student, teacher, 2.0)) == pytest.approx(4 * math.log(2), rel=1e-6)


def test_its_gradient_by_hand() -> None:
    # d / d student = T^2 / T (p - q) / N = 2 (1/2 - 3/4, 1/2 - 1/4); none where they agree.
    student, teacher = torch.zeros(1, 2), torch.tensor([[2 * math.log(3), 0.0]])
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(distillation(student, teacher, 2.0), student)
    torch.testing.assert_close(gradient, torch.tensor([[-0.5, 0.5]]))
    same = teacher.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(distillation(same, teacher, 2.0), same)
    torch.testing.assert_close(gradient, torch.zeros(1, 2))


# The method


def soft_targets(logits: Tensor) -> Tensor:
    return functional.softmax(logits / 2.0, dim=1)


def kd(student: Tensor, teacher: Tensor) -> Tensor:
    """Written out: T = 2, and T^2 = 4."""
    losses = -(soft_targets(teacher) * torch.log(soft_targets(student))).sum(1)
    return 4 * losses.mean()


@pytest.mark.parametrize("weighting", ["per-task", "fixed"])
@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_the_loss_written_out(scenario: str, weighting: str) -> None:
    method = lwf(scenario, more=f"weighting: {weighting}, strength: 0.7")
    learn(method, [0, 1])
    task = method.benchmark.task(2)
    samples = task.train()
    method.begin(task)
    old = copy.deepcopy(method.network)
    with method.view(2) as network:
        method.start_fit([task], network)
        with torch.no_grad():
            for parameter in method.network.parameters():
                parameter *= 0.9
        y = samples.y + network.offsets[2]
        found = method.loss(network, samples.x, y).detach()
    new = method.network
    with torch.no_grad():
        before, after = old.backbone(samples.x), new.backbone(samples.x)
        if scenario == "task":
            cross = functional.cross_entropy(new.heads["task-002"](after), samples.y)
            names = ["task-000", "task-001"]
            losses = [kd(new.heads[name](after), old.heads[name](before)) for name in names]
        else:
            # Class-incremental: 6 outputs, all in use now, 4 of them before this task.
            count = 4 if scenario == "class" else 2
            logits = new.heads["shared"](after)
            cross = functional.cross_entropy(logits, y)
            losses = [kd(logits[:, :count], old.heads["shared"](before)[:, :count])]
    assert len(losses) == (2 if scenario == "task" else 1)
    if weighting == "fixed":
        right = cross + 0.7 * sum(losses)
    else:
        right = cross / 3 + (2 / 3) * sum(losses) / len(losses)
    torch.testing.assert_close(found, right)


def test_new_classes_with_target_zero() -> None:
    method = lwf("class", more="weighting: fixed, new_classes: zero")
    learn(method, [0])
    task = method.benchmark.task(1)
    samples = task.train()
    method.begin(task)
    with method.view(1) as network:
        method.start_fit([task], network)
        found = method.loss(network, samples.x, samples.y + 2).detach()
    with torch.no_grad():
        logits = method.head(1)(method.network.backbone(samples.x))
    # The old model is still the new one; of 6 outputs 2 were seen before, 4 are now.
    targets = functional.pad(soft_targets(logits[:, :2]), (0, 2))
    distilled = -4 * (targets * torch.log(soft_targets(logits[:, :4]))).sum(1).mean()
    cross = functional.cross_entropy(logits[:, :4], samples.y + 2)
    torch.testing.assert_close(found, cross + distilled)


def test_earlier_heads_learn_on_and_the_first_task_is_plain() -> None:
    method, full = lwf(), method_on("{method: full}")
    learn(method, [0])
    learn(full, [0])
    mine, others = method.network.state_dict(), full.network.state_dict()
    assert len(mine) == 6
    assert all(torch.equal(mine[name], others[name]) for name in mine)
    head = method.head(0)
    assert isinstance(head, nn.Linear)
    before = head.weight.detach().clone()
    learn(method, [1])
    assert not torch.equal(head.weight, before)


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_the_teacher_stands_still(scenario: str) -> None:
    method = lwf(scenario, model=CNN)
    learn(method, [0])
    task = method.benchmark.task(1)
    before = {name: tensor.clone() for name, tensor in method.network.state_dict().items()}
    seen: list[dict[str, Tensor]] = []

    def look() -> None:
        kept = {name: tensor.clone() for name, tensor in method.kept.items()}
        seen.append(kept | {"logits": method.teacher_logits(task.train().x)})

    method.begin(task)
    method.learn(task, sgd_fit(method, steps=5, each=look))
    assert len(seen) == 5
    # The 4-filter cnn: convolution, norm with three buffers, linear; and the one earlier head.
    assert len(seen[0]) == 1 + 1 + 2 + 3 + 2 + 2
    for later in seen[1:]:
        assert all(torch.equal(later[name], seen[0][name]) for name in seen[0])
    for name in ("backbone.norm1.running_mean", "backbone.conv1.weight"):
        assert torch.equal(seen[0][f"teacher.{name}"], before[name])
        assert not torch.equal(method.network.state_dict()[name], before[name])
    assert method.kept == {}


def test_the_teacher_does_not_touch_the_statistics_of_the_student() -> None:
    method = lwf(model=CNN)
    learn(method, [0])
    task = method.benchmark.task(1)
    method.begin(task)
    with method.view(1) as network:
        method.start_fit([task], network)
        training_mode(network)
        norm = method.network.get_submodule("backbone.norm1")
        before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
        method.teacher_logits(task.train().x)
        assert norm.training
        after = norm.state_dict()
        assert len(before) == 5
        assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_frozen_base_is_not_held_twice() -> None:
    method = lwf(adapter="lora")
    learn(method, [0])
    task = method.benchmark.task(1)
    method.begin(task)
    with method.view(1) as network:
        method.start_fit([task], network)
    # Four matrices of the adapter, and the head.
    assert len(method.kept) == 4 + 2
    base = method.network.get_parameter("backbone.linear1.base.weight")
    assert method.teacher.get_parameter("backbone.linear1.base.weight") is base


def test_costs_by_hand() -> None:
    method = lwf()
    trunk, head = trunk_bytes(method), 4 * (16 * 2 + 2)
    for task_id in range(3):
        learn(method, [task_id])
        heads = (task_id + 1) * head
        assert method.stored_bytes() == trunk + heads
        assert method.trained_parameters() == (trunk + heads) // 4
        assert method.total_parameters() == (trunk + heads) // 4


def test_fixed_with_strength_zero_is_full(tmp_path: Path) -> None:
    yamls = ("{method: lwf, weighting: fixed, strength: 0.0}", "{method: full}")
    results = [
        run_one(experiment(yaml, "class"), tmp_path / str(number)).result
        for number, yaml in enumerate(yamls)
    ]
    assert results[0]["accuracy_matrix"] == results[1]["accuracy_matrix"]


@pytest.mark.parametrize(("scenario", "adapter"), CASES)
def test_goes_on_from_its_state(scenario: str, adapter: str) -> None:
    assert_goes_on_from_its_state(lambda: lwf(scenario, adapter))


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_interruption_changes_nothing(tmp_path: Path, scenario: str) -> None:
    assert_interruption_changes_nothing("{method: lwf}", tmp_path, scenario)


def test_learns_and_holds(tmp_path: Path) -> None:
    matrix = accuracies("{method: lwf}", "task", tmp_path)
    assert 0.7 < last_mean(matrix) <= 1.0


def test_refused_options() -> None:
    for more in ("temperature: 0", "weighting: none", "strength: -1", "gamma: 1"):
        with pytest.raises(ConfigError):
            experiment(options("lwf", more=more))
