"""Samples held out of training: how many, which, and that they are in one part only."""

from __future__ import annotations

import pytest
import torch

from lora_cl.benchmarks import Benchmark
from lora_cl.benchmarks.holding_out import held_of, hold_out
from lora_cl.config import parse_config
from lora_cl.data.streaming import Streamed
from lora_cl.running.making import make_benchmark


def benchmark_of(text: str, validation: float, seed: int = 0, stream: str = "auto") -> Benchmark:
    config = parse_config(
        f"name: t\nbenchmark: {text}\nmethods: {{full: {{}}}}\nstream: {stream}\n"
        f"validation: {validation}",
        "t.yaml",
    ).config
    return make_benchmark(config, seed, torch.device("cpu"), None)


@pytest.mark.parametrize(
    ("count", "share", "held"),
    [
        (100, 0.1, 10),
        (14, 0.1, 1),
        (3, 0.01, 1),  # At least one of every class,
        (2, 0.99, 1),  # and one to train with.
        (10, 0.99, 9),
        (1, 0.5, 0),  # The only one is trained with.
    ],
)
def test_how_many_of_a_class(count: int, share: float, held: int) -> None:
    assert held_of(count, share) == held


def test_the_first_of_each_class_in_the_order_are_held_out() -> None:
    y = torch.tensor([0, 1, 0, 0, 2, 1, 0])
    order = torch.tensor([6, 5, 4, 3, 2, 1, 0])
    # Of class 0 (rows 6, 3, 2, 0 in that order) two, of class 1 (5, 1) one, of class 2 none.
    kept, held = hold_out(y, 0.5, order)
    assert held.tolist() == [3, 5, 6]
    assert kept.tolist() == [0, 1, 2, 4]


@pytest.mark.parametrize(
    "text",
    [
        "{name: split, dataset: digits, tasks: 5}",
        "{name: permuted, dataset: digits, tasks: 3, max_train_samples: 300}",
        "{name: rotated, dataset: digits, tasks: 3}",
        "{name: sequence, size: 8, datasets: [digits, digits]}",
    ],
)
@pytest.mark.parametrize("stream", ["false", "true"])
def test_every_benchmark_holds_out_a_share_of_every_class(text: str, stream: str) -> None:
    plain, held_out = benchmark_of(text, 0.0, 0, stream), benchmark_of(text, 0.2, 0, stream)
    for index in range(2):
        whole, task = plain.task(index).train(), held_out.task(index)
        assert plain.task(index).validation is None
        assert task.validation is not None
        train, held = task.train(), task.validation()
        counts, kept, out = (torch.bincount(s.y).tolist() for s in (whole, train, held))
        assert out == [round(0.2 * count) for count in counts]
        assert [a + b for a, b in zip(kept, out, strict=True)] == counts
        assert isinstance(held.x, Streamed) == (stream == "true")
        # The same inputs in all, none twice.
        together = torch.cat([train.x[:], held.x[:]]).flatten(1)
        assert sorted(together.tolist()) == sorted(whole.x[:].flatten(1).tolist())
        again = task.validation()
        assert torch.equal(again.x[:], held.x[:])
        assert torch.equal(plain.task(index).test().x[:], task.test().x[:])


def test_the_draw_is_of_seed_and_task() -> None:
    text = "{name: permuted, dataset: digits, tasks: 2}"
    drawn = []
    for seed, index in ((0, 0), (0, 1), (1, 0)):
        make = benchmark_of(text, 0.1, seed).task(index).validation
        assert make is not None
        drawn.append(make().x[:].flatten(1).sum(1).tolist())
    # Permuting features keeps an input's sum, but for rounding.
    sums = [sorted(round(value, 3) for value in values) for values in drawn]
    assert sums[0] != sums[1]
    assert sums[0] != sums[2]
