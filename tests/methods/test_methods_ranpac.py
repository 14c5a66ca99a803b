"""RanPAC against a plain solution of the same equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lora_cl.benchmarks import permutation
from lora_cl.methods import ranpac
from lora_cl.methods.ranpac import RIDGES, RandomProjection, best_ridge, ridge_weights


def data(n: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    centres = torch.randn(classes, 5, generator=torch.Generator().manual_seed(9))
    return centres[y] + 0.5 * torch.randn(n, 5, generator=generator), y


def made(
    classes: int = 4, width: int = 12, *, again: bool = True, of_all: bool = False
) -> RandomProjection:
    device = torch.device("cpu")
    return RandomProjection(classes, 5, width, 3, device, again=again, of_all=of_all)


def by_hand(
    tasks: list[tuple[torch.Tensor, torch.Tensor, int]], W: np.ndarray, classes: int
) -> tuple[np.ndarray, float]:
    """Algorithm 1 of the paper with numpy: explicit residuals, explicit inverses."""
    width = W.shape[1]
    G, C, ridge = np.zeros((width, width)), np.zeros((width, classes)), 0.0
    for x, y, seed in tasks:
        h = np.maximum(x.numpy().astype(float) @ W, 0)
        targets = np.eye(classes)[y.numpy()]
        G, C = G + h.T @ h, C + h.T @ targets
        order = permutation(len(y), seed).numpy()
        fit, out = order[: int(0.8 * len(y))], order[int(0.8 * len(y)) :]
        errors = []
        for candidate in 10.0 ** np.arange(-8, 9):
            inner = h[fit].T @ h[fit] + candidate * np.eye(width)
            w = np.linalg.solve(inner, h[fit].T @ targets[fit])
            errors.append(np.mean((h[out] @ w - targets[out]) ** 2))
        ridge = float(10.0 ** np.arange(-8, 9)[int(np.argmin(errors))])
    return np.linalg.solve(G + ridge * np.eye(width), C), ridge


@pytest.mark.parametrize("chunk", [2048, 7])
def test_the_weights_are_those_of_algorithm_1(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranpac, "CHUNK", chunk)
    answer = made()
    W = answer.projection.numpy().astype(float)
    first, second = data(60, 2), data(50, 2, seed=1)
    answer.take(lambda x: x, *first, 0, seed=4)
    answer.take(lambda x: x, *second, 2, seed=5)
    tasks = [(*first, 4), (second[0], second[1] + 2, 5)]
    expected, ridge = by_hand(tasks, W, 4)
    assert float(answer.ridge) == pytest.approx(ridge)
    np.testing.assert_allclose(answer.weight.numpy(), expected, rtol=1e-4, atol=1e-6)
    x = data(20, 4, seed=2)[0]
    scores = np.maximum(x.numpy().astype(float) @ W, 0) @ expected
    np.testing.assert_allclose(answer(x).numpy(), scores, rtol=1e-4, atol=1e-5)


def test_the_projection_is_drawn_once_from_the_seed_and_not_stored() -> None:
    assert torch.equal(made().projection, made().projection)
    assert "projection" not in made().state_dict()
    assert abs(float(made(width=5000).projection.std()) - 1) < 0.02


def test_the_best_ridge_is_that_of_the_least_error_on_other_samples() -> None:
    generator = np.random.default_rng(0)
    h = generator.normal(size=(40, 30))
    targets = np.eye(2)[generator.integers(0, 2, 40)]  # Noise: much shrinkage is best.
    G, C = h[:32].T @ h[:32], h[:32].T @ targets[:32]
    G_out, C_out = h[32:].T @ h[32:], h[32:].T @ targets[32:]
    errors = {
        ridge: ((h[32:] @ np.linalg.solve(G + ridge * np.eye(30), C) - targets[32:]) ** 2).sum()
        for ridge in RIDGES
    }
    found = best_ridge(*map(torch.tensor, (G, C, G_out, C_out)))
    assert found == min(errors, key=errors.__getitem__)
    assert 1 < found < 1e8


def test_the_samples_of_all_tasks_choose_the_ridge() -> None:
    """A fifth of each, against the rest of each: as if the parts had come at once."""
    answer = made(of_all=True)
    tasks = [(*data(60, 2), 4), (*data(50, 2, seed=1), 5)]
    fit, out = [], []
    for task, (x, y, seed) in enumerate(tasks):
        answer.take(lambda x: x, x, y, 2 * task, seed=seed)
        h = answer.random_features(x).double()
        targets = torch.eye(4, dtype=torch.float64)[y + 2 * task]
        order = permutation(len(y), seed)
        fit.append((h[order[: int(0.8 * len(y))]], targets[order[: int(0.8 * len(y))]]))
        out.append((h[order[int(0.8 * len(y)) :]], targets[order[int(0.8 * len(y)) :]]))
    (h, t), (h_out, t_out) = (map(torch.cat, zip(*part, strict=True)) for part in (fit, out))
    errors = {}
    for ridge in RIDGES:
        w = torch.linalg.solve(h.T @ h + ridge * torch.eye(12), h.T @ t)
        errors[ridge] = float((h_out @ w - t_out).square().sum())
    best = min(errors, key=errors.__getitem__)
    assert float(answer.ridge) == pytest.approx(best)
    assert 1e-8 < best < 1e8


def test_an_easy_last_task_does_not_choose_for_all() -> None:
    """Any lambda fits it, and a tiny one ruins the others among as many features as samples."""
    chosen = {}
    for of_all in (False, True):
        answer = made(width=60, of_all=of_all)
        noise = torch.randn(50, 5, generator=torch.Generator().manual_seed(1))
        answer.take(lambda x: x, noise, torch.arange(50) % 2, 0, seed=0)
        easy = 9 * torch.eye(5)[torch.arange(12) % 2]
        answer.take(lambda x: x, easy, torch.arange(12) % 2, 2, seed=0)
        chosen[of_all] = float(answer.ridge)
    assert chosen[False] < 1e-2
    assert chosen[True] >= 1


def test_a_gram_matrix_that_rounding_spoilt_gets_a_larger_ridge() -> None:
    h = torch.ones(3, 6, dtype=torch.float64) * 1e6
    ridge, w = ridge_weights(h.T @ h, h.T @ torch.ones(3, 1, dtype=torch.float64), 1e-8)
    assert ridge > 1e-8
    assert bool(w.isfinite().all())


def test_a_class_without_samples_is_never_the_answer() -> None:
    answer = made()
    x, y = data(40, 2)
    answer.take(lambda x: x, x, y, 1, seed=0)
    scores = answer(-10 * torch.ones(3, 5))
    assert scores[:, [0, 3]].eq(-torch.inf).all()
    assert scores[:, [1, 2]].isfinite().all()


def test_one_sample_is_enough_to_answer() -> None:
    answer = made()
    answer.take(lambda x: x, torch.ones(1, 5), torch.zeros(1, dtype=torch.int64), 0, seed=0)
    assert answer(torch.ones(1, 5)).argmax(1).tolist() == [0]


def test_where_no_more_samples_come_the_gram_matrix_is_not_kept() -> None:
    assert set(made(again=False).state_dict()) == {"weight", "counts", "ridge"}
    assert {"gram", "sums"} < set(made().state_dict())
    kept = set(made(of_all=True).state_dict()) - set(made().state_dict())
    assert kept == {"gram_out", "sums_out"}
    assert set(made(again=False, of_all=True).state_dict()) == {"weight", "counts", "ridge"}
