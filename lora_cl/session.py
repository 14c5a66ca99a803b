"""One run under way: learn, evaluate, save, and go on from what was saved."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lora_cl import trainer
from lora_cl.adapters import parameter_count
from lora_cl.benchmarks import Benchmark, Task, permutation
from lora_cl.checkpoints import Checkpoints, save_tensors
from lora_cl.config import Config
from lora_cl.errors import BrokenPromiseError, DivergedError, ResultsError
from lora_cl.methods import Method
from lora_cl.models import TaskNetwork, known_hashes, without_prefix
from lora_cl.optimizers import Optimizer, make_optimizer
from lora_cl.results import append_event

MODEL = "model.safetensors"
CHECKPOINT_SHARE = 0.015
"""No more of a run's time than this goes into checkpoints, but for the first one."""


@dataclass
class Ledger:
    """What has been measured so far; part of every checkpoint."""

    accuracy: list[list[float | None]] = field(default_factory=list)
    untrained: list[float | None] | None = None
    routed: list[list[float | None]] = field(default_factory=list)
    router_accuracy: list[list[float | None]] = field(default_factory=list)
    learned_fingerprints: dict[int, str] = field(default_factory=dict)
    last_seen: dict[int, tuple[str, float]] = field(default_factory=dict)
    trained_parameters: list[int] = field(default_factory=list)
    total_parameters: list[int] = field(default_factory=list)
    train_seconds: float = 0.0
    eval_seconds: float = 0.0

    @classmethod
    def of(cls, value: dict[str, Any]) -> Ledger:
        """From JSON, whose keys are text."""
        ledger = cls(**value)
        ledger.learned_fingerprints = {int(k): v for k, v in ledger.learned_fingerprints.items()}
        ledger.last_seen = {int(k): (v[0], v[1]) for k, v in ledger.last_seen.items()}
        return ledger


@dataclass
class Place:
    """How far a run has come: the task, the fit within it, and the trainer's own progress."""

    task: int = 0
    fit: int = -1
    epoch: int = 0
    step: int = 0


class Session:
    """One run in its folder. ``execute`` does all of it, or goes on where it was interrupted."""

    def __init__(
        self, config: Config, benchmark: Benchmark, method: Method, folder: Path, run: str
    ) -> None:
        """``run`` is the run's hash: its files say whose they are."""
        self.config = config
        self.benchmark = benchmark
        self.method = method
        self.folder = folder
        self.device = method.network.device
        self.base_parameters = parameter_count(method.network.backbone)
        self.run = run
        self.checkpoints = Checkpoints(folder / "checkpoint", run)
        self.ledger = Ledger()
        self.place = Place()
        self.resumed: tuple[Place, dict[str, Tensor]] | None = None
        self.optimizer: Optimizer | None = None
        self.optimizer_memory: dict[str, dict[str, Tensor]] = {}
        self.progress = trainer.Progress()
        self.fits = self.trained = 0
        self.without_prefix = False
        self.started = self.last_save = time.monotonic()
        self.last_cost = self.save_seconds = 0.0
        self.clock = time.perf_counter()

    def execute(self) -> None:
        """Learns and evaluates every task. Raises what stopped it; the checkpoint stays."""
        self._resume()
        if self.place.task == 0 and self.resumed is None:
            self._evaluate_untrained()
        for index in range(self.place.task, self.benchmark.n_tasks):
            task = self.benchmark.task(index)
            self.place = Place(task=index)
            append_event(self.folder, "task_started", task=index, name=task.name)
            self._learn(task)
            self._evaluate(index)
            self.place = Place(task=index + 1)
            if index + 1 < self.benchmark.n_tasks:
                self._save_if_due(boundary=True)
        self._save_model()

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

    def _fit(self, tasks: Sequence[Task], *, epochs: int | None = None) -> None:
        """The ``fit`` that methods are given: data, optimiser, streams, events, checkpoints."""
        number, self.fits = self.fits, self.fits + 1
        if self.resumed is not None and number < self.resumed[0].fit:
            return  # A later fit was under way; its checkpoint holds what this one did.
        train = self.config.train
        network: TaskNetwork
        with self.method.view_together(tasks) as network:
            samples = [task.train() for task in tasks]
            x = torch.cat([s.x for s in samples]) if len(samples) > 1 else samples[0].x
            y = torch.cat(
                [s.y + network.offsets[t.id] for t, s in zip(tasks, samples, strict=True)]
            )
            del samples
            batches = math.ceil(len(y) / train.batch_size)
            if epochs is None:
                iterations = (train.iterations or 0) * len(tasks)
                total_steps = iterations or batches * (train.epochs or 1)
            else:
                total_steps = batches * epochs
            stream = [self.method.learned[-1], number]
            torch.manual_seed(self.method.seed_for("fit", *stream))
            self.method.start_fit(tasks, network)
            groups = self.method.param_groups()
            self.optimizer = make_optimizer(
                train.optimizer, groups, train.lr, train.weight_decay, train.momentum
            )
            self.progress = trainer.Progress()
            self.place = Place(self.place.task, number)
            if train.optimizer_state == "keep":
                self._recall_optimizer()
            decided = None
            if self.resumed is not None:
                decided = self.without_prefix
                self._restore_fit(*self.resumed)
            whole = network
            if self.config.cache and self.method.takes_features:
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
                return permutation(len(y), seed).to(y.device)

            def after_epoch(losses: Tensor) -> None:
                self._after_epoch(losses, epochs, total_steps)

            trainer.fit(
                self.method,
                network,
                x,
                y,
                optimizer=self.optimizer,
                rate=trainer.RATES[train.schedule],
                batch_size=train.batch_size,
                total_steps=total_steps,
                order=order,
                clip_norm=train.clip_norm,
                progress=self.progress,
                after_step=self._save_if_due,
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
        row: list[float | None] = [None] * self.benchmark.n_tasks
        known = known_hashes(method.network)
        with self._timed("eval_seconds"):
            for index in range(min(latest + 2, self.benchmark.n_tasks)):
                if not method.answers(index):
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
        n_tasks = self.benchmark.n_tasks
        accuracies: list[float | None] = [None] * n_tasks
        found: list[float | None] = [None] * n_tasks
        for index in range(latest + 1):
            task = self.benchmark.task(index)
            samples = task.test()
            first = task.first_class if self.benchmark.scenario == "class" else 0
            tasks, outputs = self.method.route(samples.x)
            accuracies[index] = trainer.share_equal(outputs, samples.y + first)
            found[index] = trainer.share_equal(tasks, torch.full_like(tasks, index))
        self.ledger.routed.append(accuracies)
        self.ledger.router_accuracy.append(found)

    def _accuracy(self, index: int) -> float:
        samples = self.benchmark.task(index).test()
        with self.method.view(index) as network:
            return trainer.accuracy(network, samples.x, samples.y + network.offsets[index])

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        """Adds the seconds inside to the ledger's ``what``, those of checkpoints excepted."""
        self._add_time(None)
        yield
        self._add_time(what)

    def _add_time(self, what: str | None) -> None:
        """Adds the seconds since the last call to ``what``, or to nothing."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if what is not None:
            setattr(self.ledger, what, getattr(self.ledger, what) + now - self.clock)
        self.clock = now

    # Checkpoints

    def _save_if_due(self, boundary: bool = False) -> None:
        """Saves at the ends of tasks and epochs, and every `checkpoint_seconds` in between."""
        every, now = self.config.checkpoint_seconds, time.monotonic()
        if now - self.last_save < (0.0 if boundary else every):
            return
        expected = self.save_seconds + self.last_cost
        if every == 0.0 or expected <= CHECKPOINT_SHARE * (now - self.started):
            self._save()

    def _save(self) -> None:
        self._add_time("train_seconds" if self.place.fit >= 0 else None)
        start = time.monotonic()
        tensors = {f"method.{k}": v for k, v in self.method.state_dict().items()}
        for name, memory in self.optimizer_memory.items():
            tensors |= {f"memory.{name}::{key}": value for key, value in memory.items()}
        self.place.epoch, self.place.step = self.progress.epoch, self.progress.step
        if self.place.fit >= 0 and self.optimizer is not None:
            for index, parameter in enumerate(self.optimizer.parameters):
                state = self.optimizer.state.get(parameter, {})
                tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
            if self.progress.losses:
                tensors["losses"] = torch.stack(self.progress.losses)
            tensors["random"] = torch.get_rng_state()
            if self.device.type == "cuda":
                tensors["device_random"] = torch.cuda.get_rng_state(self.device)
        meta = {
            "place": asdict(self.place),
            "sealed": sorted(self.method.bank),
            "ledger": asdict(self.ledger),
            "trained": self.trained,
            "without_prefix": self.without_prefix,
        }
        self.checkpoints.save(tensors, meta)
        append_event(self.folder, "checkpoint", task=self.place.task, step=self.place.step)
        self.last_save = time.monotonic()
        self.last_cost = self.last_save - start
        self.save_seconds += self.last_cost
        self._add_time(None)

    def _resume(self) -> None:
        """Goes back to the newest whole checkpoint; sealed tasks after it are learned again."""
        found = self._newest_whole()
        self.place = Place(**found[1]["place"]) if found else Place()
        for task_id in list(self.method.bank):
            if task_id >= self.place.task:
                del self.method.bank[task_id]
        if found is None:
            return
        tensors, meta = found
        self.ledger = Ledger.of(meta["ledger"])
        for name, tensor in tensors.items():
            if name.startswith("memory."):
                parameter, _, key = name.removeprefix("memory.").partition("::")
                self.optimizer_memory.setdefault(parameter, {})[key] = tensor.to(self.device)
        for index in range(self.place.task):
            self.method.begin(self.benchmark.task(index))
        if self.place.fit >= 0:
            self.trained = meta["trained"]
            self.without_prefix = meta["without_prefix"]
            self.resumed = (self.place, tensors)
        else:
            self.method.load_state_dict(_under("method.", tensors))

    def _newest_whole(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest checkpoint that is whole, as are the sealed tasks that it builds on."""

        def say(message: str) -> None:
            append_event(self.folder, "damaged", message=message)

        for tensors, meta in self.checkpoints.newest_first(say):
            try:
                for task_id in meta["sealed"]:
                    self.method.bank.check(task_id)
            except KeyError:
                say(f"adapters: task {task_id} is missing")
            except ResultsError as error:
                say(str(error))
            else:
                return tensors, meta
        return None

    def _restore_fit(self, place: Place, tensors: dict[str, Tensor]) -> None:
        """Puts method, optimiser, position and random stream where the checkpoint had them."""
        assert self.optimizer is not None
        self.resumed = None
        self.method.load_state_dict(_under("method.", tensors))
        for index, parameter in enumerate(self.optimizer.parameters):
            state = _under(f"optimizer.{index}.", tensors)
            if state:
                self.optimizer.state[parameter] = {k: v.to(self.device) for k, v in state.items()}
        losses = list(tensors["losses"].to(self.device)) if "losses" in tensors else []
        self.progress = trainer.Progress(place.epoch, place.step, losses)
        torch.set_rng_state(tensors["random"])
        if "device_random" in tensors:
            torch.cuda.set_rng_state(tensors["device_random"], self.device)

    def _remember_optimizer(self) -> None:
        """Keeps the optimiser's state by parameter name, for the next fit.

        Of parameters that are gone, such as a sealed task's, nothing is kept.
        """
        assert self.optimizer is not None
        known, self.optimizer_memory = self.optimizer_memory, {}
        for name, parameter in self.method.network.named_parameters():
            state = self.optimizer.state.get(parameter) or known.get(name)
            if state:
                self.optimizer_memory[name] = state

    def _recall_optimizer(self) -> None:
        assert self.optimizer is not None
        for name, parameter in self.method.network.named_parameters():
            if parameter.requires_grad and name in self.optimizer_memory:
                self.optimizer.state[parameter] = {
                    key: value.clone() for key, value in self.optimizer_memory[name].items()
                }

    # What stays

    def _save_model(self) -> None:
        """All learned state that is not under ``adapters/``: enough to answer for every task."""
        sealed = sorted(self.method.bank)
        meta = {"run": self.run, "tasks": self.benchmark.n_tasks, "sealed": sealed}
        save_tensors(self.folder / MODEL, self.method.state_dict(), meta)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
