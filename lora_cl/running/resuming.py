"""The state of a run under way: what is saved of it, when, and how it is put back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from lora_cl.adapters import parameter_count
from lora_cl.benchmarks import Benchmark
from lora_cl.config import Config
from lora_cl.errors import ResultsError
from lora_cl.methods import Method
from lora_cl.records.events import append_event
from lora_cl.running.checkpoints import Checkpoints
from lora_cl.training import loop
from lora_cl.training.optimizers import Optimizer

CHECKPOINT_SHARE = 0.015
"""No more of a run's time than this goes into checkpoints, but for the first one."""

TURN_SECONDS = 0.2
"""How long a run computes before it offers its core to another one."""

GiveWay = Callable[[], None]
"""Called between two steps; comes back when it is this run's turn again."""


@dataclass
class Ledger:
    """What has been measured so far; part of every checkpoint.

    A matrix's row ends with the last task that was measured in it.
    """

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

    MATRICES: ClassVar[tuple[str, ...]] = ("accuracy", "routed", "router_accuracy")

    def parts(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """For a checkpoint: the matrices as tensors, the rest as JSON."""
        rest = dict(vars(self))
        return {name: _to_tensor(rest.pop(name)) for name in self.MATRICES}, rest

    @classmethod
    def of(cls, matrices: dict[str, Tensor], rest: dict[str, Any]) -> Ledger:
        """From its parts; the keys of JSON are text."""
        ledger = cls(**rest)
        for name, matrix in matrices.items():
            setattr(ledger, name, _to_rows(matrix))
        ledger.learned_fingerprints = {int(k): v for k, v in ledger.learned_fingerprints.items()}
        ledger.last_seen = {int(k): (v[0], v[1]) for k, v in ledger.last_seen.items()}
        return ledger


def _to_tensor(rows: list[list[float | None]]) -> Tensor:
    """Shape (rows, longest row), float64, NaN where not measured."""
    matrix = torch.full((len(rows), max(map(len, rows), default=0)), math.nan, dtype=torch.float64)
    for filled, row in zip(matrix, rows, strict=True):
        known = [math.nan if value is None else value for value in row]
        filled[: len(row)] = torch.tensor(known, dtype=torch.float64)
    return matrix


def _to_rows(matrix: Tensor) -> list[list[float | None]]:
    return [[None if math.isnan(value) else value for value in row.tolist()] for row in matrix]


@dataclass
class Place:
    """How far a run has come: the task, the fit within it, and the trainer's own progress."""

    task: int = 0
    fit: int = -1
    epoch: int = 0
    step: int = 0


class Resumable:
    """A run under way that can be cut off anywhere and go on from its last checkpoint.

    The sealed tasks are on disk already; a checkpoint holds everything else: what the method
    learned, the optimiser, the position in the epoch, the random stream, what was measured.
    """

    def __init__(
        self,
        config: Config,
        benchmark: Benchmark,
        method: Method,
        folder: Path,
        run: str,
        give_way: GiveWay | None = None,
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
        self.progress = loop.Progress()
        self.fits = self.trained = 0
        self.without_prefix = False
        self.give_way = give_way
        self.started = self.last_save = self.last_turn = time.monotonic()
        self.last_cost = self.save_seconds = 0.0
        self.clock = time.perf_counter()

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

    def _after_step(self) -> None:
        """Between two steps: a checkpoint if it is due, and way for another run."""
        self._save_if_due()
        if self.give_way is not None and time.monotonic() - self.last_turn >= TURN_SECONDS:
            self._add_time("train_seconds")
            self.give_way()
            self._add_time(None)
            self.last_turn = time.monotonic()

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
        measured, ledger = self.ledger.parts()
        tensors = {f"method.{k}": v for k, v in self.method.state_dict().items()}
        tensors |= {f"ledger.{k}": v for k, v in measured.items()}
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
            "ledger": ledger,
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
        self.ledger = Ledger.of(under("ledger.", tensors), meta["ledger"])
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
            self.method.load_state_dict(under("method.", tensors))

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
        self.method.load_state_dict(under("method.", tensors))
        for index, parameter in enumerate(self.optimizer.parameters):
            state = under(f"optimizer.{index}.", tensors)
            if state:
                self.optimizer.state[parameter] = {k: v.to(self.device) for k, v in state.items()}
        losses = list(tensors["losses"].to(self.device)) if "losses" in tensors else []
        self.progress = loop.Progress(place.epoch, place.step, losses)
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


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
