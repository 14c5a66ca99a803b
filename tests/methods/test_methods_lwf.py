from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import lwf_reference
import pytest
import torch
from method_cases import CNN, run_one
from shared_backbone_cases import (
    accuracies,
    experiment,
    last_mean,
    learn,
    method_on,
    options,
    sgd_fit,
    trunk_bytes,
)
from torch import Tensor, nn
from torch.nn import functional

import lora_cl
from lora_cl.errors import ConfigError
from lora_cl.methods.lwf import LwF, distillation
from lora_cl.models import training_mode
from lora_cl.records.metrics import learning_accuracy


def lwf(scenario: str = "task", adapter: str = "", more: str = "", **named: Any) -> LwF:
    method = method_on(options("lwf", adapter, more), scenario, **named)
    assert isinstance(method, LwF)
    return method


# The formula


def test_distillation_by_hand() -> None:
    # T = 2: the teacher's (2 ln 3, 0) / 2 gives q = (3/4, 1/4), the student's p = (1/2, 1/2).
    # -sum q ln p = ln 2.
    student, teacher = torch.zeros(1, 2), torch.tensor([[2 * math.log(3), 0.0]])
    assert float(distillation(student, teacher, 2.0)) == pytest.approx(math.log(2), rel=1e-6)


def test_its_gradient_by_hand() -> None:
    # d / d student = (p - q) / (T N) = (1/2 - 3/4, 1/2 - 1/4) / 2; none where they agree.
    student, teacher = torch.zeros(1, 2), torch.tensor([[2 * math.log(3), 0.0]])
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(distillation(student, teacher, 2.0), student)
    torch.testing.assert_close(gradient, torch.tensor([[-0.125, 0.125]]))
    same = teacher.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(distillation(same, teacher, 2.0), same)
    torch.testing.assert_close(gradient, torch.zeros(1, 2))


def test_a_new_class_is_pushed_away_by_hand() -> None:
    # T = 1: q = (1/2, 1/2, 0), p = (1/4, 1/4, 1/2): ln 4, and a gradient of p - q.
    student = torch.tensor([[0.0, 0.0, math.log(2)]], requires_grad=True)
    found = distillation(student, torch.zeros(1, 2), 1.0)
    assert float(found.detach()) == pytest.approx(math.log(4), rel=1e-6)
    (gradient,) = torch.autograd.grad(found, student)
    torch.testing.assert_close(gradient, torch.tensor([[-0.25, -0.25, 0.5]]))


# The method


def test_the_defaults_are_those_of_van_de_ven() -> None:
    chosen = lwf().options
    assert (chosen.temperature, chosen.temperature_squared) == (2.0, False)
    assert (chosen.weighting, chosen.new_classes) == ("per-task", "zero")


def at_the_third_task(scenario: str, more: str) -> tuple[dict[str, Any], Tensor]:
    """Amid the third task, the weights moved: all logits behind the loss, and the loss."""
    method = lwf(scenario, more=more)
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
        loss = method.loss(network, samples.x, y).detach()
    names = ["task-000", "task-001"] if scenario == "task" else ["shared"]
    with torch.no_grad():
        before, after = old.backbone(samples.x), method.network.backbone(samples.x)
        new = method.head(2)(after)
        student = [method.network.heads[name](after) for name in names]
        teacher = [old.heads[name](before) for name in names]
    if scenario == "class":  # 6 outputs, all in use now, 4 of them before this task.
        teacher = [teacher[0][:, :4]]
    return {"new": new, "y": y, "student": student, "teacher": teacher}, loss


CHOICES = [
    ("per-task", False, "zero"),
    ("per-task", True, "zero"),
    ("per-task", False, "ignored"),
    ("shares", True, "ignored"),
    ("fixed", False, "zero"),
]


@pytest.mark.parametrize(("weighting", "squared", "new_classes"), CHOICES)
@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_against_the_reference(
    scenario: str, weighting: str, squared: bool, new_classes: str
) -> None:
    options = f"weighting: {weighting}, temperature_squared: {str(squared).lower()}"
    options += f", new_classes: {new_classes}, temperature: 3, strength: 0.7"
    found, loss = at_the_third_task(scenario, options)
    arrays = {k: v.double().numpy() for k, v in found.items() if isinstance(v, Tensor)}
    heads = {k: [t.double().numpy() for t in found[k]] for k in ("student", "teacher")}
    assert len(heads["student"]) == (2 if scenario == "task" else 1)
    right = lwf_reference.loss(
        scenario,
        3,
        arrays["new"],
        found["y"].numpy(),
        **heads,
        T=3.0,
        squared=squared,
        weighting=weighting,
        strength=0.7,
        zero=new_classes == "zero",
    )
    assert float(loss) == pytest.approx(right, rel=1e-5)


def test_a_shared_head_counts_once_for_every_earlier_task() -> None:
    """At the third task, domain-incremental: L_new + 2 D. The values written out, not coded."""
    found, loss = at_the_third_task("domain", "temperature: 1")
    new = functional.cross_entropy(found["new"], found["y"])
    p, q = (functional.softmax(found[k][0], dim=1) for k in ("student", "teacher"))
    torch.testing.assert_close(loss, new - 2 * (q * p.log()).sum(1).mean())


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


def test_learns_and_holds(tmp_path: Path) -> None:
    matrix = accuracies("{method: lwf}", "task", tmp_path)
    assert 0.7 < last_mean(matrix) <= 1.0


def test_the_factor_holds_back_what_is_new(tmp_path: Path) -> None:
    """Real digits, domain-incremental: learning accuracy 94 to 96 % in three seeds, 83 to 85 % with
    the factor T^2 that neither paper has."""
    text = """
name: held
benchmark: {name: split, dataset: digits, tasks: 5, max_test_samples: 100}
scenario: domain
model: {hidden: [50]}
train: {epochs: 4, batch_size: 32, lr: 3e-3}
methods:
  plain: {method: lwf}
  squared: {method: lwf, temperature_squared: true}
"""
    one = lora_cl.parse_config(text, "t")
    records = lora_cl.run(one, results=tmp_path, jobs=0, device="cpu", progress=False)
    assert [record.label for record in records] == ["plain", "squared"]
    plain, squared = (learning_accuracy(record.result["accuracy_matrix"]) for record in records)
    assert plain is not None
    assert squared is not None
    assert 0.93 < plain < 0.98
    assert 0.80 < squared < 0.89


def test_refused_options() -> None:
    for more in ("temperature: 0", "weighting: none", "strength: -1", "new_classes: one"):
        with pytest.raises(ConfigError):
            experiment(options("lwf", more=more))
