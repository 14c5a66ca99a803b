"""One more task for a finished run: learned as its own were, and nothing before it moves."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora_cl.benchmarks import Task
from lora_cl.benchmarks.recorded import Recorded, task_names
from lora_cl.config import Config
from lora_cl.errors import BrokenPromiseError, ConfigError, MethodError
from lora_cl.methods import MemoryBank
from lora_cl.methods.adapted import AdapterPerTask
from lora_cl.records.layout import require_empty
from lora_cl.running.arithmetic import reproducible
from lora_cl.running.editing import with_one_more, write_bank
from lora_cl.running.making import make_benchmark
from lora_cl.running.session import Session
from lora_cl.training import loop


def with_task(
    method: AdapterPerTask,
    result: dict[str, Any],
    config: Config,
    run: Path,
    output: Path,
    data_dir: Path | None,
) -> tuple[int, float]:
    """Learns the one task of ``config``'s benchmark by its ``train``, and writes the bank of
    ``run`` with it into the folder ``output``; the number of the task and its test accuracy.

    The model and the method are those of the run, whatever ``config`` says of them; the inputs must
    have the run's shape. MethodError where learning a task moves others.
    """
    if not method.isolated:
        raise MethodError("what the run has learned would move: only isolated methods take a task")
    require_empty(output)
    task, classes = _task_of(method, config, data_dir)
    before = {k: method.uses(k, {}) for k in method.bank}
    of_run, method.bank = method.bank, MemoryBank()
    with tempfile.TemporaryDirectory() as scratch, reproducible(config.threads):
        method.begin(task)
        session = Session(config, method.benchmark, method, Path(scratch), str(result["hash"]))
        session.learn(task)
        with method.view(task.id) as network:
            samples = task.test()
            accuracy = loop.accuracy(network, samples.x, samples.y)
    sealed, method.bank = method.bank[task.id], of_run
    for other, used in before.items():
        if method.uses(other, {}) != used:
            raise BrokenPromiseError(f"learning task {task.id} changed what task {other} uses")
    _, record = with_one_more(result, task.name, classes, accuracy, "added")
    kept = {f"kept.{name}": tensor for name, tensor in method.kept.items()}
    write_bank(method, record, run, output, {task.id: sealed}, kept)
    return task.id, accuracy


def _task_of(
    method: AdapterPerTask, config: Config, data_dir: Path | None
) -> tuple[Task, list[str]]:
    """The task as the next of the run, whose benchmark then knows it, and its classes by name."""
    known = method.benchmark
    assert isinstance(known, Recorded)
    found = make_benchmark(config, method.seed, method.network.device, data_dir)
    if found.n_tasks != 1:
        raise ConfigError(f"benchmark: has {found.n_tasks} tasks; one is added at a time")
    if found.input_shape != known.input_shape:
        raise ConfigError(
            f"benchmark: has inputs of {tuple(found.input_shape)}, the run of "
            f"{tuple(known.input_shape)}"
        )
    (names,) = task_names(found)
    number, first = known.n_tasks, sum(map(known.task_classes, range(known.n_tasks)))
    method.benchmark = Recorded(
        [*known.names, names], known.shape, known.scenario, known.seed, known.device, known.real
    )
    return replace(found.task(0), id=number, first_class=first), list(names.classes)
