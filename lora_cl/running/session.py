"""One run in its folder, from the first task to the last: prepare, learn, evaluate, seal, save."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from lora_cl.adapters import parameter_count
from lora_cl.benchmarks import Benchmark, Task, permutation
from lora_cl.config import Config
from lora_cl.data.streaming import Inputs, joined
from lora_cl.errors import DivergedError, OutOfTimeError
from lora_cl.methods import Method
from lora_cl.models import TaskNetwork, described_input, seed_global_stream, without_prefix
from lora_cl.records.events import append_event
from lora_cl.records.layout import MODEL
from lora_cl.running.checkpoints import save_tensors
from lora_cl.running.curves import Curve
from lora_cl.running.evaluating import Evaluation
from lora_cl.running.resuming import Resuming
from lora_cl.running.state import FitUnderWay, Place, RunState
from lora_cl.running.timing import Clock, GiveWay, Turns
from lora_cl.training import loop
from lora_cl.training.optimizers import make_optimizer


class Session:
    """``execute`` does the run, or goes on where it was cut off; ``state`` is how far it came."""

    def __init__(
        self,
        config: Config,
        benchmark: Benchmark,
        method: Method,
        folder: Path,
        run: str,
        give_way: GiveWay | None = None,
        until: float | None = None,
    ) -> None:
        """``run`` is the run's hash: its files say whose they are. ``until``: as in ``Where``."""
        self.config, self.benchmark, self.method = config, benchmark, method
        self.folder, self.run = folder, run
        self.base_parameters = parameter_count(method.network.backbone)
        self.input = described_input(method.network.backbone, benchmark.input_shape)
        self.state = RunState(method)
        self.clock = Clock(self.state, method.network.device)
        self.evaluation = Evaluation(self.state, benchmark, self.clock)
        self.turns = Turns(give_way, self.clock)
        self.until = math.inf if until is None else until
        self.resuming = Resuming(
            self.state, benchmark, folder, run, self.clock, config.checkpoint_seconds
        )
        self.fits = 0
        """How many fits the task at hand has asked for."""

    def execute(self) -> None:
        """Learns and evaluates every task. Raises what stopped it; the checkpoint stays."""
        if not self.resuming.go_back():
            self.evaluation.untrained()
        for index in range(self.state.place.task, self.benchmark.n_tasks):
            self.do_task(index)
        self.save_model()

    def do_task(self, index: int) -> None:
        """Learns the task after the last one, and evaluates it and all before it."""
        task = self.prepare(index)
        self.learn(task)
        self.evaluate(index)
        self.save(index)

    def prepare(self, index: int) -> Task:
        task = self.benchmark.task(index)
        append_event(self.folder, "task_started", task=index, name=task.name)
        self.method.begin(task)
        self.fits = 0
        return task

    def learn(self, task: Task) -> None:
        """What the task needs and no later one touches, the method seals at the end."""
        with self.clock.timed("train_seconds"):
            self.method.learn(task, self.fit)
            self.method.finish(task)
        ledger = self.state.ledger
        if self.method.answers(task.id):
            ledger.trained_parameters.append(self.state.place.trained)
        ledger.total_parameters.append(self.method.total_parameters())

    def save(self, index: int) -> None:
        self.state.place, self.state.fit = Place(task=index + 1), None
        if index + 1 < self.benchmark.n_tasks:
            self.stop_in_time()
            self.resuming.save_if_due(boundary=True)

    def stop_in_time(self) -> None:
        """Saves a checkpoint and raises OutOfTimeError once time is up."""
        if time.time() >= self.until:
            self.resuming.save()
            raise OutOfTimeError("time is up")

    # One fit

    def fit(self, tasks: Sequence[Task], *, start: float = 0.0, end: float = 1.0) -> None:
        """The ``Fit`` that methods are given: data, optimiser, streams, events, checkpoints."""
        number, self.fits = self.fits, self.fits + 1
        if self.resuming.is_behind(number):
            return
        train, state = self.config.train, self.state
        with self.method.view_together(tasks) as network:
            x, y = _together(tasks, network)
            budget = self._budget(tasks, len(y))
            steps = loop.step_at(end, budget) - loop.step_at(start, budget)
            if steps == 0:
                return
            streams = (self.method.learned[-1], number)
            seed_global_stream(self.method.seed_for("fit", *streams), y.device)
            self.method.start_fit(tasks, network)
            optimizer = make_optimizer(
                train.optimizer,
                self.method.param_groups(),
                train.lr,
                train.weight_decay,
                train.momentum,
                train.head_lr,
                self.method.network.heads.parameters(),
            )
            under_way = state.fit = FitUnderWay(optimizer)
            state.place.fit = number
            if train.optimizer_state == "keep":
                state.memory.recall(self.method.network, optimizer)
            self.resuming.restore(under_way)
            curve = self._curve(tasks, network, budget, loop.step_at(start, budget))
            network, x = self._without_prefix(network, x, steps, under_way)
            state.place.trained = max(state.place.trained, self.method.trained_parameters())
            epochs = math.ceil(steps / math.ceil(len(y) / train.batch_size))
            place = {"task": state.place.task, "fit": number}
            append_event(self.folder, "fit_started", **place, epochs=epochs, steps=steps)

            def order(epoch: int) -> Tensor:
                seed = self.method.seed_for("batches", *streams, epoch)
                return permutation(len(y), seed).to(y.device, non_blocking=True)

            def after_step() -> None:
                curve.measure_if_due(network, under_way.progress.step)
                self.stop_in_time()
                self.resuming.save_if_due()
                self.turns.offer()

            def after_epoch(losses: Tensor) -> None:
                progress = under_way.progress
                self._require_finite(losses)
                append_event(
                    self.folder,
                    "epoch",
                    **place,
                    epoch=progress.epoch,
                    epochs=epochs,
                    step=progress.step,
                    steps=steps,
                    loss=float(losses.mean()),
                )
                self.resuming.save_if_due(boundary=True)

            if not under_way.progress.step:
                curve.measure_if_due(network, 0)
            loop.fit(
                self.method,
                network,
                x,
                y,
                optimizer=optimizer,
                rate=loop.RATES[train.schedule],
                batch_size=train.batch_size,
                total_steps=steps,
                order=order,
                clip_norm=train.clip_norm,
                precision=train.precision,
                micro_batch=train.micro_batch,
                progress=under_way.progress,
                after_step=after_step,
                after_epoch=after_epoch,
            )
        self._require_finite_parameters(under_way)
        if train.optimizer_state == "keep":
            state.memory.remember(self.method.network, optimizer)

    def _curve(self, tasks: Sequence[Task], network: TaskNetwork, budget: int, done: int) -> Curve:
        points = self.config.learning_curve
        return Curve(self.state, self.clock, tasks, network, points, budget, done)

    def _budget(self, tasks: Sequence[Task], samples: int) -> int:
        """The steps of all fits of the task together."""
        train = self.config.train
        if train.iterations is not None:
            return train.iterations * len(tasks)
        return math.ceil(samples / train.batch_size) * (train.epochs or 1)

    def _without_prefix(
        self, network: TaskNetwork, x: Inputs, steps: int, under_way: FitUnderWay
    ) -> tuple[TaskNetwork, Inputs]:
        """The network without its frozen beginning, and what that makes of x, where it pays."""
        batch_size = self.config.train.batch_size
        # In less than an epoch some samples are never seen: then all at once is more work.
        pays = self.config.cache and steps >= math.ceil(len(x) / batch_size)
        if not pays or not self.method.takes_features:
            under_way.without_prefix = False
            return network, x
        with loop.precise(self.config.train.precision, self.method.network.device):
            decided, micro_batch = under_way.without_prefix, self.config.train.micro_batch
            shorter, features = without_prefix(network, x, batch_size, decided, micro_batch)
        under_way.without_prefix = shorter is not network
        return shorter, features

    def _require_finite(self, losses: Tensor) -> None:
        finite = torch.isfinite(losses)
        if not bool(finite.all()):
            assert self.state.fit is not None
            first = int(torch.nonzero(~finite)[0])
            step = self.state.fit.progress.step - len(losses) + first + 1
            raise DivergedError(self.state.place.task, step)

    def _require_finite_parameters(self, under_way: FitUnderWay) -> None:
        """The last step can lose the weights after its loss was still a number."""
        finite = [torch.isfinite(parameter).all() for parameter in under_way.optimizer.parameters]
        if finite and not bool(torch.stack(finite).all()):
            raise DivergedError(self.state.place.task, under_way.progress.step)

    def evaluate(self, latest: int) -> None:
        """One row of the accuracy matrix, and the check of what isolated methods promise."""
        row = self.evaluation.after(latest)
        append_event(self.folder, "evaluated", task=latest, accuracies=row[: latest + 1])

    # What stays

    def save_model(self) -> None:
        """All learned state that is not under ``adapters/``: enough to answer for every task."""
        sealed = sorted(self.method.bank)
        meta = {"run": self.run, "tasks": self.benchmark.n_tasks, "sealed": sealed}
        state = self.method.state_dict() | self.method.base_state()
        save_tensors(self.folder / MODEL, state, meta)


def _together(tasks: Sequence[Task], network: TaskNetwork) -> tuple[Inputs, Tensor]:
    """The training samples of all tasks, their labels counted as the network's outputs are."""
    samples = [task.train() for task in tasks]
    labels = [s.y + network.offsets[t.id] for t, s in zip(tasks, samples, strict=True)]
    return joined([s.x for s in samples]), torch.cat(labels)
