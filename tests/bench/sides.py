"""The same training by lora-cl and by hand: what both need to do identical work."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from lora_cl.config import RunConfig, parse_config
from lora_cl.records.results import read_result
from lora_cl.running.runner import Where, run_one
from lora_cl.training import loop
from tests.bench.measure import MemoryGrowth

SPLIT_MNIST: dict[str, Any] = {
    "name": "bench",
    "benchmark": {"name": "split", "dataset": "mnist", "tasks": 5},
    "scenario": "task",
    "model": {"name": "mlp", "hidden": [400, 400]},
    "train": {"epochs": 1, "batch_size": 128, "optimizer": "adam", "lr": 1e-3},
}
LORA = {"rank": 8, "alpha": 16, "targets": "all-linear"}


def run_config(method: dict[str, Any], **changes: Any) -> RunConfig:
    """Seed 0 of Split-MNIST with one method, and with other keys where ``changes`` has them."""
    text = yaml.safe_dump({**SPLIT_MNIST, "methods": method, **changes})
    return parse_config(text, "bench").runs({})[0]


@dataclass
class Recorded:
    """What went into one call of ``loop.fit`` and came out of it."""

    x: Tensor
    y: Tensor
    weights: dict[str, Tensor]
    total_steps: int
    batch_size: int
    order: Callable[[int], Tensor]
    seconds: float = 0.0
    grown_bytes: int | None = None
    losses: list[Tensor] = field(default_factory=list)

    @property
    def last_loss(self) -> float:
        return float(self.losses[-1][-1])


@contextmanager
def recorded_fits() -> Iterator[list[Recorded]]:
    """Notes every ``loop.fit`` inside, and times its step loop alone.

    That is the loop with all hooks of a run, but neither the making of the task's data, nor the
    computing of the frozen prefix, nor what happens between two epochs, such as a checkpoint.
    """
    records: list[Recorded] = []
    fit = loop.fit

    def recording(learner: Any, network: Any, x: Tensor, y: Tensor, **options: Any) -> None:
        weights = {k: v.detach().clone() for k, v in network.state_dict().items()}
        given = {name: options[name] for name in ("total_steps", "batch_size", "order")}
        record = Recorded(x, y, weights, **given)
        between, after_epoch = 0.0, options["after_epoch"]

        def noting(losses: Tensor) -> None:
            nonlocal between
            start = time.process_time()
            record.losses.append(losses)
            after_epoch(losses)
            between += time.process_time() - start

        options["after_epoch"] = noting
        growth = MemoryGrowth()
        start = time.process_time()
        fit(learner, network, x, y, **options)
        record.seconds = time.process_time() - start - between
        record.grown_bytes = growth.bytes()
        records.append(record)

    with patch.object(loop, "fit", recording):
        yield records


def in_process(
    run: RunConfig, results: Path, data: Path | None = None
) -> tuple[dict[str, Any], list[Recorded]]:
    """A whole run in this process, from nothing: its record, and its fits."""
    with recorded_fits() as records:
        outcome = run_one(run, Where(results, data_dir=data), force=True)
    if outcome.status != "done":
        raise RuntimeError(f"{run.label}: {outcome.message}")
    result = read_result(results / run.folder)
    assert result is not None
    return result, records


def seconds_a_step(records: Sequence[Recorded]) -> float:
    """The mean over all steps of these fits."""
    return sum(r.seconds for r in records) / sum(r.total_steps for r in records)


class HandLora(nn.Module):
    """h = W0 x + b + s B A x as in ``lora_cl.adapters.lora``, operation by operation."""

    def __init__(self, weight: Tensor, bias: Tensor, A: Tensor, B: Tensor, scale: float) -> None:
        super().__init__()
        self.weight, self.bias = weight, bias
        self.A, self.B, self.scale = nn.Parameter(A), nn.Parameter(B), scale

    def forward(self, x: Tensor) -> Tensor:
        out = F.linear(x, self.weight, self.bias)
        hidden = (self.A @ x.T).T
        return torch.addmm(out, hidden, self.B.T.contiguous(), alpha=self.scale)


def plain_mlp(record: Recorded) -> nn.Sequential:
    """784-400-400-outputs as anyone writes it, with the weights of ``record``."""
    w = record.weights
    layers = [nn.Flatten()]
    for number in (1, 2):
        weight, bias = _base(w, number)
        layers += [_linear(weight, bias), nn.ReLU()]
    return nn.Sequential(*layers, _linear(w["heads.0.weight"], w["heads.0.bias"]))


def lora_mlp(record: Recorded, scale: float = 2.0) -> nn.Sequential:
    """``plain_mlp`` with the adapters of ``record`` on both layers; they and the head train."""
    w = record.weights
    layers: list[nn.Module] = [nn.Flatten()]
    for number in (1, 2):
        A, B = adapter_factors(w, number)
        layers += [HandLora(*_base(w, number), A, B, scale), nn.ReLU()]
    return nn.Sequential(*layers, _linear(w["heads.0.weight"], w["heads.0.bias"]))


def adapter_factors(weights: dict[str, Tensor], number: int) -> tuple[Tensor, Tensor]:
    """A and B of layer ``number``."""
    found = {k: v for k, v in weights.items() if f"linear{number}.adapters." in k}
    (A,) = (v for k, v in found.items() if "lora_A" in k)
    (B,) = (v for k, v in found.items() if "lora_B" in k)
    return A.clone(), B.clone()


def _base(weights: dict[str, Tensor], number: int) -> tuple[Tensor, Tensor]:
    names = (f"backbone.linear{number}.", f"backbone.linear{number}.base.")
    (name,) = (name for name in names if f"{name}weight" in weights)
    return weights[f"{name}weight"].clone(), weights[f"{name}bias"].clone()


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.weight, linear.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    return linear


def train_by_hand(network: nn.Module, record: Recorded) -> tuple[float, Tensor]:
    """The minimal loop over the batches of ``record``; its seconds, and the loss of every step."""
    x, y = record.x, record.y
    losses: list[Tensor] = []
    network.train()
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)
    batches = math.ceil(len(y) / record.batch_size)
    start = time.process_time()
    for epoch in range(math.ceil(record.total_steps / batches)):
        for index in torch.split(record.order(epoch), record.batch_size):
            optimizer.zero_grad()
            loss = F.cross_entropy(network(x[index]), y[index])
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            if len(losses) == record.total_steps:
                break
    return time.process_time() - start, torch.stack(losses)


@contextmanager
def one_thread() -> Iterator[None]:
    """The threads that a run uses by default; nothing else is set."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
