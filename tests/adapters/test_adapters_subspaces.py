"""Norms, ranks and overlaps against what can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from lora_cl.adapters.subspaces import cut, decomposed, effective_rank, energy, overlap


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_factors_and_product_are_decomposed_alike() -> None:
    B, A = random(9, 3), random(3, 12, seed=1)
    one, other = decomposed((B, A)), decomposed(B @ A)
    assert len(one.S) == len(other.S) == 3
    torch.testing.assert_close(one.S, other.S, rtol=1e-5, atol=1e-6)
    assert one.norm == pytest.approx(float(torch.linalg.vector_norm(B @ A)), rel=1e-5)
    torch.testing.assert_close((one.U * one.S) @ one.V, (B @ A).double(), rtol=1e-5, atol=1e-5)
    assert overlap(one.V, other.V) == pytest.approx(1.0)


def test_nothing_has_no_direction() -> None:
    nothing = decomposed(torch.zeros(4, 5))
    assert (len(nothing.S), nothing.norm, effective_rank(nothing.S)) == (0, 0.0, 0.0)
    assert overlap(nothing.V, decomposed(random(4, 5)).V) is None
    assert energy(nothing.S, 2) is None


def test_the_effective_rank_counts_directions_of_one_size() -> None:
    assert effective_rank(torch.tensor([2.0, 2.0, 2.0])) == pytest.approx(3.0)
    assert effective_rank(torch.tensor([5.0])) == pytest.approx(1.0)
    p = 0.75
    by_hand = math.exp(-p * math.log(p) - (1 - p) * math.log(1 - p))
    assert effective_rank(torch.tensor([3.0, 1.0])) == pytest.approx(by_hand)


def test_overlaps_by_hand() -> None:
    rows = torch.eye(6, dtype=torch.float64)
    assert overlap(rows[:2], rows[2:4]) == 0.0
    assert overlap(rows[:2], rows[1:4]) == 0.5
    assert overlap(rows[:1], rows[:4]) == 1.0
    slanted = torch.tensor([[1.0, 1.0, 0, 0, 0, 0]], dtype=torch.float64) / math.sqrt(2)
    assert overlap(slanted, rows[:1]) == pytest.approx(0.5)
    # Random subspaces meet as often as their ranks and the width say.
    found = [
        overlap(decomposed(random(3, 40, seed=k)).V, decomposed(random(3, 40, seed=k + 100)).V)
        for k in range(50)
    ]
    assert sum(map(float, found)) / 50 == pytest.approx(3 / 40, rel=0.2)  # type: ignore[arg-type]


def test_energy_and_cut() -> None:
    S = torch.tensor([3.0, 4.0]).sort(descending=True).values
    assert energy(S, 1) == pytest.approx(16 / 25)
    delta = random(4, 3, 2, 2)
    assert cut(delta, 2).shape == delta.shape
    torch.testing.assert_close(cut(delta, 4), delta)
    assert torch.linalg.matrix_rank(cut(delta, 2).flatten(1)) == 2
