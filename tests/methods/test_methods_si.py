from __future__ import annotations

import copy
from pathlib import Path

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
    sgd_fit,
    trunk_bytes,
)
from torch import Tensor
from torch.nn import functional

from lora_cl.benchmarks import permutation
from lora_cl.errors import ConfigError
from lora_cl.methods.si import SI, si_importance, si_penalty, si_penalty_gradient


def si(scenario: str = "task", adapter: str = "", more: str = "c: 0.5") -> SI:
    method = method_on(options("si", adapter, more), scenario)
    assert isinstance(method, SI)
    return method


# The formulas


def test_importance_by_hand() -> None:
    # L = t^2 / 2 from t = 4, two steps of rate 1/2: 4 -> 2 -> 1, with gradients 4 and 2.
    # omega = -(4 (-2) + 2 (-1)) = 10; the loss fell by 8 - 1/2 = 7.5 (finite steps overestimate).
    # Delta = -3, xi = 1: Omega = 10 / (9 + 1) = 1.
    path = torch.tensor([-(4.0 * (2.0 - 4.0) + 2.0 * (1.0 - 2.0))])
    assert float(si_importance(path, torch.tensor([-3.0]), xi=1.0)) == 1.0


def test_penalty_by_hand() -> None:
    # 0.5 (2 (3 - 1)^2 + 3 (0 - 1)^2) = 5.5: no half.
    theta, anchor = torch.tensor([3.0, 0.0]), torch.tensor([1.0, 1.0])
    assert float(si_penalty(theta, anchor, torch.tensor([2.0, 3.0]), 0.5)) == 5.5


def test_the_gradient_is_that_of_the_penalty() -> None:
    generator = torch.Generator().manual_seed(0)
    theta, anchor, importance = (torch.randn(3, 4, generator=generator) for _ in range(3))
    theta.requires_grad_()
    (right,) = torch.autograd.grad(si_penalty(theta, anchor, importance, 0.7), theta)
    found = si_penalty_gradient(theta.detach(), anchor, importance, 0.7)
    torch.testing.assert_close(found, right)


# The method


def reference(
    method: SI, tasks: int, steps: int, lr: float, c: float, xi: float, whole: bool
) -> dict[str, Tensor]:
    """Importances after ``tasks`` tasks of class-incremental training, written out on its own:
    the whole loss goes through autograd, the task's gradient is taken apart from it. ``whole``: the
    path is that of the whole loss, as in the code of van de Ven et al. 2022."""
    backbone = copy.deepcopy(method.network.backbone)
    head = copy.deepcopy(method.network.heads["shared"])
    parameters = [*backbone.parameters(), *head.parameters()]
    importance = [torch.zeros_like(p) for p in parameters]
    anchors = [p.detach().clone() for p in parameters]
    for task_id in range(tasks):
        task = method.benchmark.task(task_id)
        samples, seen = task.train(), task.first_class + task.classes
        path = [torch.zeros_like(p) for p in parameters]
        optimizer = torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=0.1)
        batches = [i for epoch in range(9) for i in permutation(48, epoch).split(16)]
        for index in batches[:steps]:
            logits = head(backbone(samples.x[index]))[:, :seen]
            loss = functional.cross_entropy(logits, samples.y[index] + task.first_class)
            of_task = torch.autograd.grad(loss, parameters, retain_graph=True)
            pulls = zip(parameters, anchors, importance, strict=True)
            penalty = sum(c * (o * (p - a) ** 2).sum() for p, a, o in pulls)
            optimizer.zero_grad()
            (loss + penalty).backward()
            before = [p.detach().clone() for p in parameters]
            noted = [p.grad.clone() for p in parameters] if whole else of_task  # type: ignore[union-attr]
            optimizer.step()
            for w, g, b, p in zip(path, noted, before, parameters, strict=True):
                w -= g * (p.detach() - b)
        for number, p in enumerate(parameters):
            moved = p.detach() - anchors[number]
            importance[number] += path[number] / (moved**2 + xi)
            anchors[number] = p.detach().clone()
    names = [f"backbone.{n}" for n, _ in backbone.named_parameters()]
    names += ["heads.shared.weight", "heads.shared.bias"]
    return dict(zip(names, importance, strict=True))


@pytest.mark.parametrize("gradient", ["task", "whole"])
def test_equals_the_algorithm_written_out(gradient: str) -> None:
    method = si("class", more=f"c: 2.0, xi: 0.05, gradient: {gradient}")
    right = reference(method, tasks=3, steps=7, lr=0.02, c=2.0, xi=0.05, whole=gradient == "whole")
    learn(method, [0, 1, 2], steps=7, lr=0.02)
    assert len(right) == 6
    for name, importance in right.items():
        scale = float(importance.abs().max())
        torch.testing.assert_close(
            method.kept[f"importance.{name}"], importance, rtol=1e-4, atol=1e-5 * scale
        )


def test_heads_of_single_tasks_are_free() -> None:
    method = si("task")
    learn(method, [0, 1])
    assert sum(name.startswith("importance.") for name in method.kept) == 4
    assert not any("heads" in name for name in method.kept)


def test_the_importance_of_a_task_adds_up_to_what_the_loss_fell_by() -> None:
    """With small steps of plain descent, sum_i omega_i is the fall of the loss (equation 3)."""
    method = si("task")
    task = method.benchmark.task(0)
    samples = task.train()

    def loss() -> float:
        with method.view(0) as network, torch.no_grad():
            return float(functional.cross_entropy(network(samples.x), samples.y))

    method.begin(task)
    method.shared = {}
    with method.view(0) as network:
        method.start_fit([task], network)
        head = dict(method.head(0).named_parameters())
        method.shared |= head  # The head takes part in the fall, so it is counted here.
        for name, parameter in head.items():
            method.kept[f"path.{name}"] = torch.zeros_like(parameter)
        before = loss()
        for step in range(1, 201):
            method.network.zero_grad()
            method.loss(network, samples.x, samples.y).backward()  # type: ignore[no-untyped-call]
            method.after_backward()
            with torch.no_grad():
                for parameter in method.shared.values():
                    assert parameter.grad is not None
                    parameter -= 0.002 * parameter.grad
            method.after_step(step, 200)
    fall = before - loss()
    omega = sum(float(path.sum()) for name, path in method.kept.items() if "path." in name)
    assert fall > 0.05
    assert 0.98 * fall < omega < 1.05 * fall


def test_the_penalty_pulls_back() -> None:
    moved = []
    for c in ("0.0", "1e2", "1e3"):
        method = si(more=f"c: {c}")
        learn(method, [0])
        before = {name: p.detach().clone() for name, p in method.shared_parameters().items()}
        weights = {name: method.kept[f"importance.{name}"].abs() for name in before}
        learn(method, [1], steps=30)
        after = method.shared_parameters()
        far = [weights[n] * (after[n].detach() - before[n]).square() for n in before]
        moved.append(sum(float(part.sum()) for part in far))
    assert moved[0] > 1.3 * moved[1] > 1.7 * moved[2] > 0


def test_c_zero_is_full(tmp_path: Path) -> None:
    results = [
        run_one(experiment(yaml, "class"), tmp_path / str(number)).result
        for number, yaml in enumerate(("{method: si, c: 0.0}", "{method: full}"))
    ]
    assert results[0]["accuracy_matrix"] == results[1]["accuracy_matrix"]


def test_stored_bytes_by_hand() -> None:
    method = si()
    trunk, head = trunk_bytes(method), 4 * (16 * 2 + 2)
    for task_id in range(3):
        learn(method, [task_id])
        # An importance and an anchor a number of the trunk; the path is gone.
        assert method.stored_bytes() == 3 * trunk + (task_id + 1) * head
    assert method.trained_parameters() == (trunk + head) // 4
    assert method.total_parameters() == (trunk + 3 * head) // 4


def test_the_path_is_part_of_the_state_during_a_fit() -> None:
    method, seen = si(), []
    task = method.benchmark.task(0)
    method.begin(task)
    method.learn(task, sgd_fit(method, steps=2, each=lambda: seen.append(set(method.state_dict()))))
    assert len(seen) == 2
    assert all("kept.path.backbone.linear1.weight" in names for names in seen)
    assert not any("path" in name for name in method.state_dict())


def test_learns_and_holds(tmp_path: Path) -> None:
    matrix = accuracies("{method: si, c: 10.0}", "task", tmp_path)
    assert 0.7 < last_mean(matrix) <= 1.0


def test_refused_options() -> None:
    for more in ("c: -1", "xi: 0", "strength: 3"):
        with pytest.raises(ConfigError):
            experiment(options("si", more=more))
