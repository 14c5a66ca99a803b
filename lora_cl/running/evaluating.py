"""What a run measures: rows of the accuracy matrix, and what isolated methods promise."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lora_cl.benchmarks import Benchmark, Samples, Task
from lora_cl.errors import BrokenPromiseError
from lora_cl.models import known_hashes
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
            accuracy, right = self._routed(task, task.test())
            accuracies.append(accuracy)
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
        return self._routed(task, samples)[0] if self.has_router else self._oracle(task, samples)

    def _accuracy(self, index: int) -> float:
        task = self.benchmark.task(index)
        return self._oracle(task, task.test())

    def _oracle(self, task: Task, samples: Samples) -> float:
        with self.method.view(task.id) as network:
            return loop.accuracy(network, samples.x, samples.y + network.offsets[task.id])

    def _routed(self, task: Task, samples: Samples) -> tuple[float, float]:
        """The accuracy with the router, and how often it finds the task."""
        first = task.first_class if self.benchmark.scenario == "class" else 0
        tasks, outputs = self.method.route(samples.x)
        right = loop.share_equal(tasks, torch.full_like(tasks, task.id))
        return loop.share_equal(outputs, samples.y + first), right
