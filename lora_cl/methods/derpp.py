"""DER++: dark experience replay (Buzzega et al. 2020, arXiv 2004.07211)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lora_cl.benchmarks import Task
from lora_cl.data import as_bytes, pixels
from lora_cl.data.streaming import Inputs
from lora_cl.methods.method import Fit, Size, task_cross_entropy
from lora_cl.methods.replay import Replay, integers_for
from lora_cl.methods.shared import SharedBackboneOptions
from lora_cl.models import TaskNetwork
from lora_cl.options import OptionsBase

DRAWS = ("dark", "labels")


class DERppOptions(SharedBackboneOptions):
    """`size`: how many samples the reservoir holds. `alpha` weighs the distance to their outputs as
    they were when a sample came in, `beta` the loss of their labels; with beta 0 this is DER.
    """

    size: Annotated[int, Field(ge=1)] = 500
    """How many samples the reservoir holds."""
    alpha: Annotated[float, Field(ge=0.0)] = 0.5
    """The weight of the distance to stored outputs."""
    beta: Annotated[float, Field(ge=0.0)] = 0.5
    """The weight of the loss of stored labels; 0: DER."""


class DERpp(Replay):
    """A reservoir of what was trained on, filled at every step, with the network's outputs then.

    Each batch comes with two as large from it: one is to be answered as it was, one as its labels
    say (equation 6). An epoch more is more of the stream. Two tensors a sample: x and the outputs.
    """

    Options: ClassVar[type[OptionsBase]] = DERppOptions
    summary: ClassVar[str] = "stored samples are to be answered as they once were, and as labelled"

    @classmethod
    def sized_by(cls, options: Any) -> Size | None:
        return Size("size", most=2**24)

    def learn(self, task: Task, fit: Fit) -> None:
        self.open_memory(task.train().x)
        fit([task])
        self.kept.pop("step")
        if self.seen:  # Of no samples nobody knows whether bytes can hold them.
            self.kept["memory.x"] = as_bytes(self.kept["memory.x"])

    def loss(self, network: TaskNetwork, x: Tensor, y: Tensor) -> Tensor:
        n, filled = len(x), min(self.seen, self.options.size)
        if not filled:
            logits = network(x)
            self.latest.append((x, y, logits.detach().float()))
            return task_cross_entropy(network, logits, y)
        dark, labelled = self.draw_rows("dark", n, filled), self.draw_rows("labels", n, filled)
        memory = self.kept["memory.x"]
        logits = network(torch.cat([x, memory[dark], memory[labelled]]))
        self.latest.append((x, y, logits[:n].detach().float()))
        then, outputs = self.kept["memory.logits"][dark], self.kept["memory.outputs"][dark]
        tasks, labels = self.kept["memory.task"][labelled], self.kept["memory.y"][labelled]
        old_y = labels.long() + self.offsets[tasks.long()]
        new = task_cross_entropy(network, logits[:n], y)
        distance = dark_distance(logits[n : 2 * n], then, outputs)
        old = task_cross_entropy(network, logits[2 * n :], old_y)
        loss: Tensor = new + self.options.alpha * distance + self.options.beta * old
        return loss

    def draw_rows(self, name: str, count: int, filled: int) -> Tensor:
        """``count`` places of the memory, with replacement; the same at the same step, whether
        they are drawn at once or in parts."""
        rows = torch.randint(filled, (count,), generator=self.draws[name])
        return rows.to(self.network.device, non_blocking=True)

    def set_step(self, step: int) -> None:
        super().set_step(step)
        self.latest: list[tuple[Tensor, Tensor, Tensor]] = []
        seeds = {n: self.seed_for("memory batch", n, self.learned[-1], step) for n in DRAWS}
        self.draws = {n: torch.Generator().manual_seed(seed) for n, seed in seeds.items()}

    def after_step(self, step: int, total_steps: int) -> None:
        self.take_in(*(torch.cat(parts) for parts in zip(*self.latest, strict=True)))
        super().after_step(step, total_steps)

    @torch.no_grad()
    def take_in(self, x: Tensor, y: Tensor, logits: Tensor) -> None:
        """A batch x (N, *input) of the latest task comes by the reservoir, with its outputs y (N,)
        and logits (N, outputs)."""
        seed = self.seed_for("reservoir", self.learned[-1], int(self.kept["step"]))
        places, rows = reservoir_places(self.seen, len(y), self.options.size, seed)
        self.set_seen(self.seen + len(y))
        places, rows = (one.to(y.device, non_blocking=True) for one in (places, rows))
        memory, outputs = self.kept, logits.shape[1]
        memory["memory.x"][places] = x[rows]
        labels = y[rows] - self.offsets[self.learned[-1]]
        memory["memory.y"][places] = labels.to(memory["memory.y"].dtype)
        memory["memory.logits"][places, :outputs] = logits[rows]
        memory["memory.task"][places] = self.learned[-1]
        memory["memory.outputs"][places] = outputs

    def open_memory(self, x: Inputs) -> None:
        """Makes place for `size` samples such as x; those there are no bytes while it trains."""
        if "memory.x" in self.kept:
            self.kept["memory.x"] = pixels(self.kept["memory.x"])
            return
        size, tasks = self.options.size, range(self.benchmark.n_tasks)
        outputs = self.benchmark.task_classes(0)
        if self.benchmark.scenario != "domain":
            outputs = sum(map(self.benchmark.task_classes, tasks))

        def empty(dtype: torch.dtype, *shape: int) -> Tensor:
            return torch.zeros(size, *shape, dtype=dtype, device=self.network.device)

        self.kept |= {
            "memory.x": empty(x[:1].dtype, *x[:1].shape[1:]),
            "memory.y": empty(integers_for(outputs)),
            "memory.task": empty(integers_for(len(tasks))),
            "memory.logits": empty(torch.float32, outputs),
            "memory.outputs": empty(integers_for(outputs + 1)),
        }
        self.set_seen(0)

    def set_seen(self, seen: int) -> None:
        """How many samples came by decides who is replaced, so it is part of the state."""
        self.seen = seen
        self.kept["seen"] = torch.tensor(seen)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        super().load_state_dict(state)
        if "seen" in self.kept:
            self.set_seen(int(self.kept["seen"]))

    def details(self) -> dict[str, Any]:
        """How many samples of each task the memory holds."""
        if "memory.task" not in self.kept:
            return {}
        tasks = self.kept["memory.task"][: min(self.seen, self.options.size)].long()
        counts = torch.bincount(tasks, minlength=len(self.learned))
        return {"memory_samples_per_task": [int(count) for count in counts]}


def dark_distance(logits: Tensor, then: Tensor, outputs: Tensor) -> Tensor:
    """The mean of (logits - then)^2 over the outputs that a sample had when it was stored.

    logits (N, now), then (N, all), of which the first ``outputs`` (N,) count: later tasks add some.
    The paper has the sum over outputs, its authors' code the mean (Buzzega et al. 2020, section 3).
    """
    there = torch.arange(logits.shape[1], device=logits.device) < outputs[:, None]
    squares = (logits - then[:, : logits.shape[1]]).square()
    return (squares * there).sum() / there.sum()


def reservoir_places(seen: int, count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Where in a reservoir of ``size`` the next ``count`` samples go, and which of them do.

    Vitter's (1985) algorithm R: of samples counted from 0, number n goes to place n if that is
    free, else to a uniform one of 0..n, if there is such a place. Of two in one place the last
    stays. Both are (k,) int64 on the CPU, each place once.
    """
    number = torch.arange(seen, seen + count)
    u = torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    places = torch.where(number < size, number, (u * (number + 1)).long())
    last = {place: row for row, place in enumerate(places.tolist()) if place < size}
    return torch.tensor(list(last), dtype=torch.int64), torch.tensor(list(last.values())).long()
