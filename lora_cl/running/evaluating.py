"""What a run measures: rows of the accuracy matrix, and what isolated methods promise."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lora_cl.benchmarks import Benchmark, Samples, Task
from lora_cl.errors import BrokenPromiseError
from lora_cl.models import known_hashes
from lora_cl.records.confusion import is_kept
from lora_cl.running.ledger import Row
from lora_cl.running.state import RunState
from lora_cl.running.timing import Clock
from lora_cl.training import loop


class Evaluation:
    """Measures the tasks so far and writes it in the ledger; what did not change has not moved."""

    def __init__(self, state: RunState, benchmark: Benchmark, clock: Clock) -> None:
        self.state, self.benchmark, self.clock = state, benchmark, clock
        self.method = state.method
        self.has_router = self.method.router != "oracle"
        classes = [benchmark.task_classes(index) for index in range(benchmark.n_tasks)]
        self.together = benchmark.scenario == "class"
        self.outputs = [sum(classes)] * len(classes) if self.together else classes
        self.keeps_confusion = is_kept(classes, self.together)

    def untrained(self) -> None:
        """Accuracies of the untrained network, where its heads can answer at all (b_j)."""
        n_tasks = self.benchmark.n_tasks
        if not any(self.method.answers(index) for index in range(1, n_tasks)):
            return
        with self.clock.timed("eval_seconds"):
            self.state.ledger.untrained = [
                self._accuracy(index) if self.method.answers(index) else None
                for index in range(n_tasks)
            ]

    def after(self, latest: int) -> Row:
        """A row of every matrix, after learning task ``latest``; returns that of its record."""
        ledger = self.state.ledger
        known = known_hashes(self.method.network)
        with self.clock.timed("eval_seconds"):
            row, used = self._row(latest, known)
            ledger.accuracy.append(row)
            if self.has_router:
                self._add_routed(latest)
        if self.benchmark.validation:
            # No method pays for it: it is neither training nor the evaluation that is compared.
            ledger.validation.append([self._validated(j, used.get(j)) for j in range(latest + 1)])
        return ledger.routed[-1] if self.has_router else row

    def _row(
        self, latest: int, known: Mapping[tuple[int, int], bytes]
    ) -> tuple[Row, dict[int, str]]:
        """The accuracies with the true task id, and the fingerprint of what each task used."""
        ledger, method = self.state.ledger, self.method
        row: Row = [None] * min(latest + 2, self.benchmark.n_tasks)
        used: dict[int, str] = {}
        for index in range(len(row)):
            if index not in ledger.last_seen and not method.answers(index):
                continue
            seen = used[index] = method.uses(index, known)
            if index <= latest:
                learned = ledger.learned_fingerprints.setdefault(index, seen)
                if method.isolated and learned != seen:
                    raise BrokenPromiseError(
                        f"learning task {latest} changed what task {index} uses, though "
                        f"the method promises not to"
                    )
            if ledger.last_seen.get(index, ("", 0.0))[0] != seen:
                ledger.last_seen[index] = (seen, self._accuracy(index))
            row[index] = ledger.last_seen[index][1]
        return row, used

    def _add_routed(self, latest: int) -> None:
        """The row again with the router in the oracle's place, and how often it was right."""
        accuracies: Row = []
        found: Row = []
        for index in range(latest + 1):
            task = self.benchmark.task(index)
            samples = task.test()
            answers, right = self._routed(task, samples)
            accuracies.append(self._tested(task, samples.y, answers))
            found.append(right)
        self.state.ledger.routed.append(accuracies)
        self.state.ledger.router_accuracy.append(found)

    def _validated(self, index: int, seen: str | None) -> float | None:
        """The accuracy on samples held out, by the router if there is one.

        None for a task that cannot answer, or of which nothing could be held out.
        """
        ledger = self.state.ledger
        if seen is None:
            return None
        before, value = ledger.last_validated.get(index, ("", None))
        if before != seen or self.has_router:  # What a router finds, other tasks change.
            value = self._on_held_out(self.benchmark.task(index))
            ledger.last_validated[index] = (seen, value)
        return value

    def _on_held_out(self, task: Task) -> float | None:
        assert task.validation is not None
        samples = task.validation()
        if not len(samples.y):
            return None
        if self.has_router:
            answers, _ = self._routed(task, samples)
        else:
            answers = self._oracle(task, samples)
        return loop.share_equal(answers, samples.y + self._first(task))

    def _accuracy(self, index: int) -> float:
        task = self.benchmark.task(index)
        samples = task.test()
        return self._tested(task, samples.y, self._oracle(task, samples))

    def _tested(self, task: Task, y: Tensor, answers: Tensor) -> float:
        """The accuracy of answers to test samples of labels y; what was taken for what is kept."""
        first = self._first(task)
        if not self.keeps_confusion:
            return loop.share_equal(answers, y + first)
        counts = loop.counted(answers, y, task.classes, self.outputs[task.id]).cpu()
        self.state.ledger.confusion[task.id] = counts.tolist()
        return int(counts[:, first:].diagonal().sum()) / len(y)

    def _first(self, task: Task) -> int:
        """What is added to a label of the task to name an answer."""
        return task.first_class if self.together else 0

    def _oracle(self, task: Task, samples: Samples) -> Tensor:
        """What its own view answers."""
        with self.method.view(task.id) as network:
            outputs = loop.predictions(network, samples.x)
            return outputs + (self._first(task) - network.offsets[task.id])

    def _routed(self, task: Task, samples: Samples) -> tuple[Tensor, float]:
        """What the router's choice answers, and how often that is the task."""
        tasks, answers = self.method.route(samples.x)
        return answers, loop.share_equal(tasks, torch.full_like(tasks, task.id))
