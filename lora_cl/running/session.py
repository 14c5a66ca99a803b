"""One run under way: learn every task, and evaluate what was learned."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lora_cl.benchmarks import Task, permutation
from lora_cl.data.streaming import joined
from lora_cl.errors import BrokenPromiseError, DivergedError
from lora_cl.models import TaskNetwork, known_hashes, without_prefix
from lora_cl.records.events import append_event
from lora_cl.running.checkpoints import save_tensors
from lora_cl.running.resuming import Place, Resumable
from lora_cl.training import loop
from lora_cl.training.optimizers import Optimizer, make_optimizer

MODEL = "model.safetensors"


class Session(Resumable):
    """One run in its folder. ``execute`` does all of it, or goes on where it was interrupted."""

    def execute(self) -> None:
        """Learns and evaluates every task. Raises what stopped it; the checkpoint stays."""
        self._resume()
        if self.place.task == 0 and self.resumed is None:
            self._evaluate_untrained()
        for index in range(self.place.task, self.benchmark.n_tasks):
            self.do_task(index)
        self._save_model()

    def do_task(self, index: int) -> None:
        """Learns the task after the last one, and evaluates it and all before it."""
        task = self.benchmark.task(index)
        self.place = Place(task=index)
        append_event(self.folder, "task_started", task=index, name=task.name)
        self._learn(task)
        self._evaluate(index)
        self.place = Place(task=index + 1)
        if index + 1 < self.benchmark.n_tasks:
            self._save_if_due(boundary=True)

    # Learning

    def _learn(self, task: Task) -> None:
        self.method.begin(task)
        self.fits = 0
        if self.resumed is None:
            self.trained = 0
        with self._timed("train_seconds"):
            self.method.learn(task, self._fit)
            if self.method.router == "prototype":
                self.method.add_prototypes(task)
        if self.method.answers(task.id):
            self.ledger.trained_parameters.append(self.trained)
        self.ledger.total_parameters.append(self.method.total_parameters())

    def _fit(self, tasks: Sequence[Task], *, start: float = 0.0, end: float = 1.0) -> None:
        """The ``fit`` that methods are given: data, optimiser, streams, events, checkpoints."""
        number, self.fits = self.fits, self.fits + 1
        if self.resumed is not None and number < self.resumed[0].fit:
            return  # A later fit was under way; its checkpoint holds what this one did.
        train = self.config.train
        network: TaskNetwork
        with self.method.view_together(tasks) as network:
            samples = [task.train() for task in tasks]
            x = joined([s.x for s in samples])
            y = torch.cat(
                [s.y + network.offsets[t.id] for t, s in zip(tasks, samples, strict=True)]
            )
            del samples
            batches = math.ceil(len(y) / train.batch_size)
            budget = (train.iterations or 0) * len(tasks) or batches * (train.epochs or 1)
            total_steps = loop.step_at(end, budget) - loop.step_at(start, budget)
            if total_steps == 0:
                return
            stream = [self.method.learned[-1], number]
            torch.manual_seed(self.method.seed_for("fit", *stream))
            self.method.start_fit(tasks, network)
            groups = self.method.param_groups()
            self.optimizer = make_optimizer(
                train.optimizer, groups, train.lr, train.weight_decay, train.momentum
            )
            self.progress = loop.Progress()
            self.place = Place(self.place.task, number)
            if train.optimizer_state == "keep":
                self._recall_optimizer()
            decided = None
            if self.resumed is not None:
                decided = self.without_prefix
                self._restore_fit(*self.resumed)
            whole = network
            # In less than an epoch some samples are never seen: then all at once is more work.
            pays = self.config.cache and total_steps >= batches
            if pays and self.method.takes_features:
                network, x = without_prefix(network, x, train.batch_size, decided)
            self.without_prefix = network is not whole
            self.trained = max(self.trained, self.method.trained_parameters())
            epochs = math.ceil(total_steps / batches)
            append_event(
                self.folder,
                "fit_started",
                task=self.place.task,
                fit=number,
                epochs=epochs,
                steps=total_steps,
            )

            def order(epoch: int) -> Tensor:
                seed = self.method.seed_for("batches", *stream, epoch)
                return permutation(len(y), seed).to(y.device, non_blocking=True)

            def after_epoch(losses: Tensor) -> None:
                self._after_epoch(losses, epochs, total_steps)

            loop.fit(
                self.method,
                network,
                x,
                y,
                optimizer=self.optimizer,
                rate=loop.RATES[train.schedule],
                batch_size=train.batch_size,
                total_steps=total_steps,
                order=order,
                clip_norm=train.clip_norm,
                progress=self.progress,
                after_step=self._after_step,
                after_epoch=after_epoch,
            )
        self._require_finite(self.optimizer)
        if train.optimizer_state == "keep":
            self._remember_optimizer()
        self.optimizer = None

    def _require_finite(self, optimizer: Optimizer) -> None:
        """The last step can lose the weights after its loss was still a number."""
        finite = [torch.isfinite(parameter).all() for parameter in optimizer.parameters]
        if finite and not bool(torch.stack(finite).all()):
            raise DivergedError(self.place.task, self.progress.step)

    def _after_epoch(self, losses: Tensor, epochs: int, total_steps: int) -> None:
        finite = torch.isfinite(losses)
        if not bool(finite.all()):
            first = int(torch.nonzero(~finite)[0])
            raise DivergedError(self.place.task, self.progress.step - len(losses) + first + 1)
        append_event(
            self.folder,
            "epoch",
            task=self.place.task,
            fit=self.place.fit,
            epoch=self.progress.epoch,
            epochs=epochs,
            step=self.progress.step,
            steps=total_steps,
            loss=float(losses.mean()),
        )
        self._save_if_due(boundary=True)

    # Evaluating

    def _evaluate_untrained(self) -> None:
        """Accuracies of the untrained network, where its heads can answer at all (b_j)."""
        n_tasks = self.benchmark.n_tasks
        if not any(self.method.answers(index) for index in range(1, n_tasks)):
            return
        with self._timed("eval_seconds"):
            self.ledger.untrained = [
                self._accuracy(index) if self.method.answers(index) else None
                for index in range(n_tasks)
            ]

    def _evaluate(self, latest: int) -> None:
        """One row of the accuracy matrix, and the check of what isolated methods promise."""
        ledger, method = self.ledger, self.method
        row: list[float | None] = [None] * min(latest + 2, self.benchmark.n_tasks)
        known = known_hashes(method.network)
        with self._timed("eval_seconds"):
            for index in range(len(row)):
                if index not in ledger.last_seen and not method.answers(index):
                    continue
                seen = method.uses(index, known)
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
            if method.router != "oracle":
                self._evaluate_routed(latest)
        ledger.accuracy.append(row)
        shown = (ledger.routed[-1] if method.router != "oracle" else row)[: latest + 1]
        append_event(self.folder, "evaluated", task=latest, accuracies=shown)

    def _evaluate_routed(self, latest: int) -> None:
        """The row again with the router in the oracle's place, and how often it was right."""
        accuracies: list[float | None] = []
        found: list[float | None] = []
        for index in range(latest + 1):
            task = self.benchmark.task(index)
            samples = task.test()
            first = task.first_class if self.benchmark.scenario == "class" else 0
            tasks, outputs = self.method.route(samples.x)
            accuracies.append(loop.share_equal(outputs, samples.y + first))
            found.append(loop.share_equal(tasks, torch.full_like(tasks, index)))
        self.ledger.routed.append(accuracies)
        self.ledger.router_accuracy.append(found)

    def _accuracy(self, index: int) -> float:
        samples = self.benchmark.task(index).test()
        with self.method.view(index) as network:
            return loop.accuracy(network, samples.x, samples.y + network.offsets[index])

    # What stays

    def _save_model(self) -> None:
        """All learned state that is not under ``adapters/``: enough to answer for every task."""
        sealed = sorted(self.method.bank)
        meta = {"run": self.run, "tasks": self.benchmark.n_tasks, "sealed": sealed}
        save_tensors(self.folder / MODEL, self.method.state_dict(), meta)
