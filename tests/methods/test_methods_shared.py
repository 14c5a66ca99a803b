"""Heads that are the rows of one output layer, against one layer and torch's own Adam."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from method_cases import run_one
from shared_backbone_cases import experiment, learn, method_on, options
from torch import Tensor, nn
from torch.nn import functional

from lora_cl.benchmarks import Task, permutation
from lora_cl.methods import Method
from lora_cl.running.state import OptimizerMemory
from lora_cl.training import loop
from lora_cl.training.optimizers import make_optimizer

ONE = "output_layer: one"
TASKS, CLASSES, STEPS, LR = 3, 2, 9, 0.01
METHODS = ("full", "ewc", "si", "lwf", "replay", "derpp")


def kept_fit(method: Method, memory: OptimizerMemory, tasks: Sequence[Task]) -> None:
    """Nine steps on a task by an Adam that goes on where it ended at the task before."""
    (task,) = tasks
    samples = task.train()
    with method.view_together(tasks) as network:
        method.start_fit(tasks, network)
        optimizer = make_optimizer("adam", method.param_groups(), LR, 0.0, 0.0)
        memory.recall(method.network, optimizer)
        loop.fit(
            method,
            network,
            samples.x,
            samples.y + network.offsets[task.id],
            optimizer=optimizer,
            rate=loop.RATES["constant"],
            batch_size=16,
            total_steps=STEPS,
            order=lambda epoch: permutation(len(samples.y), epoch),
            clip_norm=None,
            precision="float32",
            progress=loop.Progress(),
            after_step=lambda: None,
            after_epoch=lambda losses: None,
        )
        memory.remember(method.network, optimizer)


def one_layer(method: Method) -> nn.Sequential:
    """The network before the first task, its heads in one layer of six rows."""
    heads = list(method.network.heads.values())
    assert len(heads) == TASKS
    layer = nn.Linear(method.network.features, TASKS * CLASSES)
    with torch.no_grad():
        layer.weight.copy_(torch.cat([head.weight for head in heads]))
        layer.bias.copy_(torch.cat([head.bias for head in heads]))
    return nn.Sequential(copy.deepcopy(method.network.backbone), layer)


def fisher_by_hand(network: nn.Module, x: Tensor, rows: slice) -> list[Tensor]:
    """mean over n of sum over c of p_c (d log p_c / d theta)^2, a sample and a label at a time."""
    parameters = list(network.parameters())
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for one in x:
        log_p = functional.log_softmax(network(one[None])[0, rows], 0)
        for label in range(CLASSES):
            gradients = torch.autograd.grad(log_p[label], parameters, retain_graph=True)
            for square, gradient in zip(total, gradients, strict=True):
                square += log_p[label].exp().detach() * gradient.square()
    return [square / len(x) for square in total]


@pytest.mark.parametrize(("name", "strength"), [("full", 0.0), ("ewc", 30.0)])
def test_rows_of_one_layer_are_trained_as_one_layer_is(name: str, strength: float) -> None:
    more = f"{ONE}, strength: {strength}" if strength else ONE
    method, memory = method_on(options(name, more=more)), OptimizerMemory()
    theirs = one_layer(method)
    adam = torch.optim.Adam(theirs.parameters(), lr=LR)
    past: list[tuple[list[Tensor], list[Tensor]]] = []
    steps = 0
    for task_id in range(TASKS):
        task = method.benchmark.task(task_id)
        method.begin(task)
        method.learn(task, lambda tasks, **_: kept_fit(method, memory, tasks))
        method.finish(task)

        samples, rows = task.train(), slice(CLASSES * task_id, CLASSES * (task_id + 1))
        for epoch in range(3):
            for index in permutation(len(samples.y), epoch).split(16):
                loss = functional.cross_entropy(theirs(samples.x[index])[:, rows], samples.y[index])
                for fishers, anchors in past:
                    for p, f, a in zip(theirs.parameters(), fishers, anchors, strict=True):
                        loss = loss + strength / 2 * (f * (p - a).square()).sum()
                adam.zero_grad(set_to_none=False)
                loss.backward()
                adam.step()
                steps += 1
        if strength:
            anchors = [p.detach().clone() for p in theirs.parameters()]
            past.append((fisher_by_hand(theirs, samples.x, rows), anchors))
    assert steps == TASKS * STEPS
    ours = one_layer(method).state_dict()
    for key, tensor in theirs.state_dict().items():
        torch.testing.assert_close(ours[key], tensor, rtol=2e-4, atol=2e-5)


def heads_of(method: Method) -> list[Tensor]:
    return [head.weight.detach().clone() for head in method.network.heads.values()]


@pytest.mark.parametrize("name", METHODS)
def test_all_rows_are_there_from_the_first_task_and_held_with_the_trunk(name: str) -> None:
    method = method_on(options(name, more=ONE))
    assert len(heads_of(method)) == TASKS
    learn(method, [0])
    trained = {id(p) for group in method.param_groups() for p in group["params"]}
    assert all(id(p) in trained for p in method.network.heads.parameters())
    held = set(method.shared_parameters())  # type: ignore[attr-defined]
    assert {f"heads.task-00{task}.weight" for task in range(TASKS)} <= held


@pytest.mark.parametrize("name", ["full", "ewc", "si"])
def test_only_rows_of_one_layer_follow_momentum(name: str) -> None:
    for more, moves in ((ONE, True), ("", False)):
        method = method_on(options(name, more=more))
        memory, ends = OptimizerMemory(), []
        for task_id in range(2):
            task = method.benchmark.task(task_id)
            method.begin(task)
            method.learn(task, lambda tasks, m=method, k=memory, **_: kept_fit(m, k, tasks))
            ends.append(heads_of(method)[0])
        assert bool((ends[0] != ends[1]).any()) is moves


@pytest.mark.parametrize("scenario", ["task", "class", "domain"])
def test_rows_of_tasks_to_come_are_not_counted_yet(scenario: str) -> None:
    counts = []
    for more in ("", ONE):
        method, count = method_on(options("full", more=more), scenario), []
        for task_id in range(TASKS):
            learn(method, [task_id])
            count.append(method.total_parameters())
        counts.append(count)
    assert len(counts[0]) == TASKS
    assert counts[0] == counts[1]


def test_where_tasks_share_their_outputs_it_changes_nothing(tmp_path: Path) -> None:
    matrices = [
        run_one(experiment(options("ewc", more=more), "class"), tmp_path / more[:6]).result[
            "accuracy_matrix"
        ]
        for more in ("", ONE)
    ]
    assert matrices[0] == matrices[1]
