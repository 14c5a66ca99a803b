"""A method outside a run: made from a config, and trained by a few plain steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lora_cl.benchmarks import Task
from lora_cl.config import parse_config
from lora_cl.methods import METHODS, MemoryBank, Method
from lora_cl.models import build_network
from lora_cl.running.making import make_benchmark


def made(text: str) -> Method:
    """The method of a config on its base network, before the first task."""
    config = parse_config(text, "by hand").config
    benchmark = make_benchmark(config, 0, torch.device("cpu"), None)
    (options,) = config.methods.values()
    method = METHODS[options.method](options)
    network = build_network(config.model, benchmark.input_shape, seed=5)
    method.setup(network, benchmark, seed=0, bank=MemoryBank())
    return method


def learned_by_hand(text: str) -> Method:
    """Two tasks learned with a loop of three plain steps in place of the training loop."""
    method = made(text)

    def fit(tasks: Sequence[Task], *, start: float = 0.0, end: float = 1.0) -> None:
        with method.view_together(tasks) as network:
            samples = [task.train() for task in tasks]
            method.start_fit(tasks, network)
            parameters = [p for group in method.param_groups() for p in group["params"]]
            for step in range(1, 4):
                for parameter in parameters:
                    parameter.grad = None
                x = torch.cat([s.x[:20] for s in samples])
                y = torch.cat(
                    [s.y[:20] + network.offsets[t.id] for t, s in zip(tasks, samples, strict=True)]
                )
                loss = method.loss(network, x, y)
                penalty = method.penalty()
                (loss if penalty is None else loss + penalty).backward()  # type: ignore[no-untyped-call]
                method.after_backward()
                with torch.no_grad():
                    for parameter in parameters:
                        if parameter.grad is not None:
                            parameter -= 0.05 * parameter.grad
                method.after_step(step, 3)

    for task_id in range(2):
        task = method.benchmark.task(task_id)
        method.begin(task)
        method.learn(task, fit)
        method.finish(task)
    return method
