"""How fast a task is learned: accuracies on samples held out, at steps of its training."""

from __future__ import annotations

from collections.abc import Sequence

from lora_cl.benchmarks import Task
from lora_cl.models import TaskNetwork, training_mode
from lora_cl.running.state import RunState
from lora_cl.running.timing import Clock
from lora_cl.training import loop


class Curve:
    """Measures one task's network ``points`` times, evenly over its ``budget`` of steps, and once
    before the first; the clock stands still meanwhile, and no bit of the training changes.

    ``done`` steps were taken in earlier fits of the task.
    """

    def __init__(
        self,
        state: RunState,
        clock: Clock,
        tasks: Sequence[Task],
        network: TaskNetwork,
        points: int,
        budget: int,
        done: int,
    ) -> None:
        self.state, self.clock, self.done = state, clock, done
        self.task = tasks[0]
        self.network = own_outputs(network, self.task, state.method.benchmark.scenario)
        asked = range(points + 1) if points and len(tasks) == 1 else ()
        self.due = {round(budget * number / points) for number in asked}
        self.due = {step for step in self.due if step > done or step == done == 0}

    def measure_if_due(self, trained: TaskNetwork, step: int) -> None:
        """After ``step`` steps of this fit, in which ``trained`` is what the loop trains."""
        if self.done + step not in self.due:
            return
        assert self.task.validation is not None
        samples = self.task.validation()
        if not len(samples.y):
            return
        with self.clock.stopped():
            wanted = samples.y + self.network.offsets[self.task.id]
            accuracy = loop.accuracy(self.network, samples.x, wanted)
            training_mode(trained)
            ledger = self.state.ledger
            point = [float(self.done + step), ledger.train_seconds, accuracy]
            ledger.curves.setdefault(self.task.id, []).append(point)


def own_outputs(network: TaskNetwork, task: Task, scenario: str) -> TaskNetwork:
    """What the latest task is answered by: its head alone where several stand side by side and the
    task id chooses among them."""
    if scenario != "task" or len(network.heads) == 1:
        return network
    return TaskNetwork(network.backbone, [network.heads[-1]], {task.id: 0})
