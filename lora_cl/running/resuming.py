"""Checkpoints of a run: what is saved of it, when, and how it goes back to the newest one."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lora_cl.benchmarks import Benchmark
from lora_cl.errors import ResultsError
from lora_cl.records.events import append_event
from lora_cl.running.checkpoints import Checkpoints
from lora_cl.running.ledger import Ledger
from lora_cl.running.state import FitUnderWay, Place, RunState
from lora_cl.running.timing import Clock
from lora_cl.training import loop

CHECKPOINT_SHARE = 0.015
"""No more of a run's time than this goes into checkpoints, but for the first one."""

UNFIT = (KeyError, TypeError, ValueError, RuntimeError, AttributeError)
"""What a checkpoint that is whole, and not of this run as it is, may end in."""

Tensors = dict[str, Tensor]


class UnfitCheckpointError(Exception):
    """A checkpoint whose content does not fit the run: it is gone, and the run begins anew."""


class Resuming:
    """Saves a run and puts it back, so that it can be cut off anywhere.

    The sealed tasks are on disk already; a checkpoint holds everything else: what the method
    learned, the optimiser, the position in the epoch, the random stream, what was measured.
    ``run`` is the run's hash, ``every`` the seconds between checkpoints within an epoch.
    """

    def __init__(
        self,
        state: RunState,
        benchmark: Benchmark,
        folder: Path,
        run: str,
        clock: Clock,
        every: float,
    ) -> None:
        self.state, self.benchmark, self.clock = state, benchmark, clock
        self.folder, self.every = folder, every
        self.checkpoints = Checkpoints(folder / "checkpoint", run)
        self.pending: Tensors | None = None
        """A checkpoint of a fit that was under way, until that fit has taken it up."""
        self.pending_meta: dict[str, Any] = {}
        self.started = self.last_save = time.monotonic()
        self.last_cost = self.save_seconds = 0.0

    # Saving

    def save_if_due(self, boundary: bool = False) -> None:
        """Saves at the ends of tasks and epochs, and every so many seconds in between."""
        now = time.monotonic()
        if now - self.last_save < (0.0 if boundary else self.every):
            return
        expected = self.save_seconds + self.last_cost
        if self.every == 0.0 or expected <= CHECKPOINT_SHARE * (now - self.started):
            self.save()

    def save(self) -> None:
        with self.clock.stopped():
            start = time.monotonic()
            state, network = self.state, self.state.method.network
            measured, ledger = state.ledger.parts()
            tensors = {f"method.{k}": v for k, v in state.method.state_dict().items()}
            tensors |= {f"ledger.{k}": v for k, v in measured.items()}
            tensors |= {f"memory.{k}": v for k, v in state.memory.tensors(network).items()}
            meta = {
                "place": asdict(state.place),
                "sealed": sorted(state.method.bank),
                "ledger": ledger,
            }
            step = 0
            if state.fit is not None:
                tensors |= _fit_tensors(state.fit, network.device)
                step = state.fit.progress.step
                meta["fit"] = {
                    "epoch": state.fit.progress.epoch,
                    "step": step,
                    "without_prefix": state.fit.without_prefix,
                }
            self.checkpoints.save(tensors, meta)
            append_event(self.folder, "checkpoint", task=state.place.task, step=step)
            self.last_save = time.monotonic()
            self.last_cost = self.last_save - start
            self.save_seconds += self.last_cost

    # Going back

    def go_back(self) -> bool:
        """Goes back to the newest whole checkpoint, if there is one; False if there is none.

        Tasks that were sealed after it are learned again. If a fit was under way, that fit takes
        up the rest in ``restore``.
        """
        found = self._newest_whole()
        first = found[1]["place"]["task"] if found else 0
        bank = self.state.method.bank
        for task_id in [task_id for task_id in bank if task_id >= first]:
            del bank[task_id]
        if found is None:
            return False
        try:
            self._take(*found)
        except UNFIT as error:
            raise self._unfit(error) from error
        return True

    def _take(self, tensors: Tensors, meta: dict[str, Any]) -> None:
        state = self.state
        state.ledger = Ledger.of(_under("ledger.", tensors), meta["ledger"])
        state.place = Place(**meta["place"])
        for index in range(state.place.task):
            state.method.begin(self.benchmark.task(index))
        state.memory.restore(state.method.network, _under("memory.", tensors))
        if state.place.fit < 0:
            state.method.load_state_dict(_under("method.", tensors))
        else:
            self.pending, self.pending_meta = tensors, meta["fit"]

    def is_behind(self, fit: int) -> bool:
        """Whether a later fit of the task was under way; the checkpoint holds what ``fit`` did."""
        return self.pending is not None and fit < self.state.place.fit

    def restore(self, fit: FitUnderWay) -> None:
        """Puts method, optimiser, position and random stream where the checkpoint had them.

        Does nothing for a fit that begins.
        """
        if self.pending is None:
            return
        tensors, self.pending = self.pending, None
        try:
            self.state.method.load_state_dict(_under("method.", tensors))
            _restore_fit(fit, tensors, self.pending_meta, self.state.method.network.device)
        except UNFIT as error:
            raise self._unfit(error) from error

    def _unfit(self, error: Exception) -> UnfitCheckpointError:
        append_event(self.folder, "damaged", message="checkpoint: does not fit the run")
        self.checkpoints.clear()
        return UnfitCheckpointError(str(error))

    def _newest_whole(self) -> tuple[Tensors, dict[str, Any]] | None:
        """The newest checkpoint that is whole, as are the sealed tasks that it builds on."""

        def say(message: str) -> None:
            append_event(self.folder, "damaged", message=message)

        for tensors, meta in self.checkpoints.newest_first(say):
            try:
                for task_id in meta["sealed"]:
                    self.state.method.bank.check(task_id)
                int(meta["place"]["task"])
            except ResultsError as error:
                say(str(error))
            except UNFIT as error:
                say(f"checkpoint or sealed task: {type(error).__name__} {error}")
            else:
                return tensors, meta
        return None


def _fit_tensors(fit: FitUnderWay, device: torch.device) -> Tensors:
    tensors: Tensors = {"random": torch.get_rng_state()}
    for index, parameter in enumerate(fit.optimizer.parameters):
        state = fit.optimizer.state.get(parameter, {})
        tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
    if fit.progress.losses:
        tensors["losses"] = torch.stack(fit.progress.losses)
    if device.type == "cuda":
        tensors["device_random"] = torch.cuda.get_rng_state(device)
    return tensors


def _restore_fit(
    fit: FitUnderWay, tensors: Tensors, meta: dict[str, Any], device: torch.device
) -> None:
    for index, parameter in enumerate(fit.optimizer.parameters):
        state = _under(f"optimizer.{index}.", tensors)
        if state:
            fit.optimizer.state[parameter] = {k: v.to(device) for k, v in state.items()}
    losses = list(tensors["losses"].to(device)) if "losses" in tensors else []
    fit.progress = loop.Progress(meta["epoch"], meta["step"], losses)
    fit.without_prefix = meta["without_prefix"]
    torch.set_rng_state(tensors["random"])
    if "device_random" in tensors:
        torch.cuda.set_rng_state(tensors["device_random"], device)


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
