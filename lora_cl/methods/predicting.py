"""What a learned network says of inputs that nobody has labelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lora_cl.data.streaming import parts
from lora_cl.errors import MethodError
from lora_cl.methods.means import CHUNK
from lora_cl.models import TaskNetwork

if TYPE_CHECKING:
    from lora_cl.methods.method import Method


class Prediction(NamedTuple):
    """For N inputs: the name of the likeliest class of each; the probabilities (N, k) of the k
    outputs of its task, zeros beyond those of the smaller ones; and which task it was taken for.

    ``tasks`` (N,) is None where one head answers for all tasks and none was named.
    """

    labels: list[str]
    probabilities: Tensor
    tasks: Tensor | None


@torch.inference_mode()
def predict(method: Method, x: Tensor, task: int | None, router: str | None) -> Prediction:
    """Answers for inputs x (N, *input) by one task's view, or, of each, by the view that
    ``router`` finds for it. MethodError where neither is given and the answer depends on it.
    """
    if task is not None and router is not None:
        raise MethodError("predict: give a task or a router, not both")
    if router == "oracle":
        raise MethodError("predict: router oracle is the task given: say which task")
    router = router or (method.router if task is None and method.router != "oracle" else None)
    if router is not None:
        tasks, _ = method.route(x, router)
        return _by_task(method, x, tasks)
    if task is None:
        if method.private_heads or method.benchmark.scenario == "task":
            last = method.benchmark.n_tasks - 1
            raise MethodError(f"predict: say which task, 0 to {last}, or which router")
        probabilities = _probabilities(method, x, method.learned[-1])
        return _named(probabilities, outputs_of(method, method.learned[-1]), None)
    tasks = torch.full((len(x),), task, device=x.device)
    return _named(_probabilities(method, x, task), outputs_of(method, task), tasks)


def outputs_of(method: Method, task_id: int) -> list[str]:
    """What the outputs of the view of a task are called, in their order."""
    benchmark = method.benchmark
    if method.private_heads or benchmark.scenario != "class":
        return benchmark.class_names(task_id)
    compete = range(benchmark.n_tasks) if method.classifier == "all-classes" else method.learned
    return [name for other in compete for name in benchmark.class_names(other)]


def _by_task(method: Method, x: Tensor, tasks: Tensor) -> Prediction:
    """Each input answered by the view of its task in ``tasks`` (N,)."""
    there = torch.unique(tasks).tolist()
    names = {task_id: outputs_of(method, task_id) for task_id in there}
    probabilities = torch.zeros(len(x), max(map(len, names.values())), device=x.device)
    labels = [""] * len(x)
    for task_id in there:
        rows = torch.nonzero(tasks == task_id).squeeze(1)
        found = _named(_probabilities(method, x[rows], task_id), names[task_id], None)
        probabilities[rows, : found.probabilities.shape[1]] = found.probabilities
        for row, label in zip(rows.tolist(), found.labels, strict=True):
            labels[row] = label
    return Prediction(labels, probabilities, tasks)


def _named(probabilities: Tensor, names: Sequence[str], tasks: Tensor | None) -> Prediction:
    labels = [names[number] for number in probabilities.argmax(1).tolist()]
    return Prediction(labels, probabilities, tasks)


def _probabilities(method: Method, x: Tensor, task_id: int) -> Tensor:
    with method.view(task_id) as network:
        return probabilities_of(network, x)


def probabilities_of(network: TaskNetwork, x: Tensor) -> Tensor:
    """The softmax (N, outputs) of what ``network`` says of x (N, *input), in eval mode."""
    network.eval()
    logits = torch.cat([network(part) for part in parts(x, CHUNK)])
    return functional.softmax(logits, dim=1)
