from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lora_cl.data.streaming import Streamed
from lora_cl.methods.means import CHUNK, NearestMean, class_scatter, class_sums

X = torch.tensor([[1.0, 2.0], [3.0, 4.0], [10.0, 0.0]])
Y = torch.tensor([0, 0, 2])


def double(x: Tensor) -> Tensor:
    return 2 * x


def head(*rows: tuple[float, float], counts: list[int] | None = None) -> NearestMean:
    made = NearestMean(len(rows), 2, torch.device("cpu"))
    made.add(torch.tensor(rows), torch.tensor(counts or [1] * len(rows)), first=0)
    return made


def test_sums_and_counts_by_hand() -> None:
    sums, counts = class_sums(double, X, Y, 4)
    assert sums.tolist() == [[8.0, 12.0], [0.0, 0.0], [20.0, 0.0], [0.0, 0.0]]
    assert counts.tolist() == [2, 0, 1, 0]


def test_scatter_by_hand() -> None:
    """Of the features (2, 4), (6, 8) about (4, 6): twice (2, 2)(2, 2)^T; of one sample nothing."""
    means = torch.tensor([[4.0, 6.0], [0.0, 0.0], [20.0, 0.0]])
    found = class_scatter(double, X, Y, means)
    assert found.tolist() == [[8.0, 8.0], [8.0, 8.0]]
    assert found.dtype == torch.float64


def test_scatter_of_more_samples_than_one_part_holds() -> None:
    """Of n samples i by turns in two classes: every mean is 0, and the scatter is sum i^2."""
    x = torch.arange(CHUNK + 5.0)[:, None]
    y, n = torch.arange(CHUNK + 5) % 2, CHUNK + 5
    found = class_scatter(lambda part: part, x, y, torch.zeros(2, 1))
    assert found.tolist() == [[(n - 1) * n * (2 * n - 1) / 6]]


def test_more_samples_than_one_part_holds() -> None:
    x = torch.arange(2.0 * (CHUNK + 5)).view(-1, 2)
    y = torch.arange(CHUNK + 5) % 2
    # Sums of whole numbers below 2^24 are exact in any order.
    sums, counts = class_sums(double, x, y, 2)
    assert torch.equal(sums, torch.stack([2 * x[y == 0].sum(0), 2 * x[y == 1].sum(0)]))
    assert counts.tolist() == [CHUNK // 2 + 3, CHUNK // 2 + 2]
    streamed = Streamed(lambda index: x[index], len(x), torch.device("cpu"))
    assert torch.equal(class_sums(double, streamed, y, 2)[0], sums)


def test_the_nearest_mean_by_hand() -> None:
    # Means (0, 0), (2, 0), (0, 4): m.h - |m|^2 / 2 at h = (1.5, 1) is 0, 3 - 2, 4 - 8.
    logits = head((0.0, 0.0), (4.0, 0.0), (0.0, 4.0), counts=[1, 2, 1])(torch.tensor([[1.5, 1.0]]))
    assert logits.tolist() == [[0.0, 1.0, -4.0]]


def test_more_samples_of_a_class_move_its_mean() -> None:
    made = head((0.0, 0.0), (4.0, 0.0))
    made.add(torch.tensor([[2.0, 6.0]]), torch.tensor([2]), first=1)
    # (4 + 2, 0 + 6) / 3 = (2, 2): at h = (1, 1) 4 - 4.
    assert made(torch.ones(1, 2)).tolist() == [[0.0, 0.0]]
    assert made.counts.tolist() == [1, 3]


@pytest.mark.parametrize("size", [1, 2, 3, 64, 1000])
def test_a_class_without_samples_is_never_the_answer(size: int) -> None:
    """Its mean would be the origin, and nearest to all of these."""
    made = head((9.0, 0.0), (0.0, 0.0), (0.0, 9.0), counts=[1, 0, 1])
    h = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0))
    logits = torch.cat([made(part) for part in torch.split(h, size)])
    assert logits.argmax(1).bincount(minlength=3)[1] == 0
    assert torch.equal(logits.argmax(1) == 2, h[:, 1] > h[:, 0])
    assert (logits[:, 1] == -math.inf).all()
    assert logits[:, [0, 2]].isfinite().all()


def test_means_are_no_parameters() -> None:
    made = head((1.0, 0.0), (0.0, 1.0))
    assert list(made.parameters()) == []
    assert sorted(made.state_dict()) == ["counts", "sums"]
