"""Inputs that are made batch by batch stand in for the tensor of all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lora_cl.data.streaming import AHEAD, Streamed, batches, joined, parts, subset

CPU = torch.device("cpu")


def numbers(n: int, start: int = 0) -> Tensor:
    return torch.arange(start, start + 2 * n, dtype=torch.float32).reshape(n, 2)


def streamed(whole: Tensor, wait: Callable[[Tensor], None] = lambda index: None) -> Streamed:
    def make(index: Tensor) -> Tensor:
        wait(index)
        return whole[index]

    return Streamed(make, len(whole), CPU)


def test_it_is_read_like_the_tensor_it_stands_for() -> None:
    whole = numbers(10)
    x = streamed(whole)
    index = torch.tensor([7, 0, 7])
    assert len(x) == 10
    assert torch.equal(x[index], whole[index])
    assert torch.equal(x[2:5], whole[2:5])
    assert torch.equal(x[:1], whole[:1])
    chosen = subset(x, torch.tensor([9, 4, 1]))
    assert len(chosen) == 3
    assert torch.equal(chosen[:], whole[[9, 4, 1]])
    assert torch.equal(subset(whole, torch.tensor([9, 4, 1])), whole[[9, 4, 1]])


@pytest.mark.parametrize("n", [1, 4, 9, 40])
def test_batches_and_parts_are_those_of_the_tensor(n: int) -> None:
    whole = numbers(n)
    indices = list(torch.split(torch.randperm(n, generator=torch.Generator().manual_seed(n)), 4))
    for x in (whole, streamed(whole)):
        made = list(batches(x, indices))
        assert len(made) == len(indices) == -(-n // 4)
        assert all(torch.equal(a, whole[i]) for a, i in zip(made, indices, strict=True))
        assert torch.equal(torch.cat(list(parts(x, 3))), whole)
        assert [len(part) for part in parts(x, 3)] == [len(p) for p in torch.split(whole, 3)]


def test_several_are_joined_in_their_order() -> None:
    pieces = [numbers(3), numbers(2, 100), numbers(4, 200)]
    whole = torch.cat(pieces)
    assert torch.equal(joined(pieces), whole)
    assert joined(pieces[:1]) is pieces[0]
    mixed = joined([streamed(pieces[0]), pieces[1], streamed(pieces[2])])
    assert isinstance(mixed, Streamed)
    assert len(mixed) == 9
    for seed in range(5):
        order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(mixed[order], whole[order])
    assert torch.equal(mixed[4:5], whole[4:5])


def test_the_next_batches_are_made_meanwhile_in_order_and_never_too_many() -> None:
    begun: list[int] = []

    def slow_at_first(index: Tensor) -> None:
        begun.append(int(index[0]))
        time.sleep(0.05 if int(index[0]) == 0 else 0)

    x = streamed(numbers(40), slow_at_first)
    seen = []
    for batch in parts(x, 2):
        seen.append(int(batch[0, 0]) // 4)
        time.sleep(0.002)
        assert len(begun) <= len(seen) + AHEAD + 1
    assert seen == list(range(20))
    assert sorted(begun) == list(range(0, 40, 2))


def test_what_goes_wrong_is_raised_where_the_batch_is_used() -> None:
    def fail(index: Tensor) -> None:
        if int(index[0]) == 6:
            raise OSError("the disk is gone")

    seen: list[Tensor] = []
    with pytest.raises(OSError, match="the disk is gone"):
        seen.extend(parts(streamed(numbers(20), fail), 2))
    assert len(seen) == 3


def test_who_stops_early_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    source = parts(streamed(numbers(1000)), 1)
    for position, _ in enumerate(source):
        if position == 2:
            break
    source.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
