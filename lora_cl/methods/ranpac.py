"""RanPAC: class prototypes on random features, decorrelated by their Gram matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from lora_cl.benchmarks import permutation
from lora_cl.data.streaming import Inputs, parts
from lora_cl.methods.means import CHUNK, Features, exact_type

RIDGES = tuple(10.0**power for power in range(-8, 9))
"""The lambda to choose from (McDonnell et al. 2023, appendix, and the authors' code)."""
FITTED = 0.8
"""The share of a task's samples that weights are fitted to when lambda is chosen by the others."""


class RandomProjection(nn.Module):
    """McDonnell et al. 2023, arXiv 2307.02251, algorithm 1: s = phi(f W)^T (G + lambda I)^-1 C.

    f (N, d) are the backbone's features, W (d, M) is drawn once from N(0, 1) and never trained, phi
    is ReLU, G (M, M) the Gram matrix of h = phi(f W) over all samples so far, and C (M, classes)
    the sums of h by class. lambda is chosen anew with every task: of its samples 80 % are fitted by
    ridge regression to one-hot targets, and the error on the others decides; with ``of_all`` those
    of earlier tasks are fitted and decide, too. Of a class without samples the score is minus
    infinity. G and C are kept if more samples are to come (``again``), and with ``of_all`` those of
    the samples that decide.
    """

    projection: Tensor
    gram: Tensor | None
    sums: Tensor | None
    gram_out: Tensor | None
    sums_out: Tensor | None
    weight: Tensor
    counts: Tensor
    ridge: Tensor

    def __init__(
        self,
        classes: int,
        features: int,
        width: int,
        seed: int,
        device: torch.device,
        *,
        again: bool,
        of_all: bool = False,
    ) -> None:
        super().__init__()
        self.out_features = classes
        drawn = torch.randn(features, width, generator=torch.Generator().manual_seed(seed))
        exact = exact_type(device)
        gram = torch.zeros(width, width, dtype=exact)
        sums = torch.zeros(width, classes, dtype=exact)
        self.register_buffer("projection", drawn.to(device), persistent=False)
        for name, kept in (("", again), ("_out", again and of_all)):
            self.register_buffer(f"gram{name}", gram.to(device, copy=True) if kept else None)
            self.register_buffer(f"sums{name}", sums.to(device, copy=True) if kept else None)
        self.register_buffer("weight", torch.zeros(width, classes, device=device))
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.int64, device=device))
        self.register_buffer("ridge", torch.zeros((), device=device))

    def forward(self, features: Tensor) -> Tensor:
        scores = self.random_features(features) @ self.weight
        return scores.masked_fill(self.counts == 0, float("-inf"))

    def random_features(self, features: Tensor) -> Tensor:
        """phi(f W): (N, d) -> (N, M)."""
        return torch.relu(features.flatten(1) @ self.projection)

    @torch.no_grad()
    def take(self, features: Features, x: Inputs, y: Tensor, first: int, seed: int) -> None:
        """See ``Statistics``: updates G, C, lambda and the weights."""
        y = y + first
        held_out = torch.ones(len(y), dtype=torch.bool)
        held_out[permutation(len(y), seed)[: int(FITTED * len(y))]] = False
        (G, C), (G_out, C_out) = self._sums(features, x, y, held_out.to(y.device))
        fitted = G, C
        self.counts += functional.one_hot(y, self.out_features).sum(0)
        G, C = G + G_out, C + C_out
        if self.gram is not None and self.sums is not None:
            G, C = self.gram.add_(G), self.sums.add_(C)
        if self.gram_out is not None and self.sums_out is not None:
            G_out, C_out = self.gram_out.add_(G_out), self.sums_out.add_(C_out)
            fitted = G - G_out, C - C_out
        ridge, weight = ridge_weights(G, C, best_ridge(*fitted, G_out, C_out))
        self.ridge.fill_(ridge)
        self.weight.copy_(weight)

    def _sums(
        self, features: Features, x: Inputs, y: Tensor, held_out: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """G and C of the samples that are not ``held_out`` (N,), and of those that are."""
        exact = exact_type(self.weight.device)
        square = self.weight.new_zeros(len(self.weight), len(self.weight), dtype=exact)
        thin = torch.zeros_like(self.weight, dtype=exact)
        found = [(square, thin), (square.clone(), thin.clone())]
        chunks = torch.split(y, CHUNK), torch.split(held_out, CHUNK)
        for part, labels, out in zip(parts(x, CHUNK), *chunks, strict=True):
            h = self.random_features(features(part)).to(exact)
            targets = functional.one_hot(labels, self.out_features).to(exact)
            for (G, C), chosen in zip(found, (~out, out), strict=True):
                G.addmm_(h[chosen].T, h[chosen])
                C.addmm_(h[chosen].T, targets[chosen])
        return found


def best_ridge(G: Tensor, C: Tensor, G_out: Tensor, C_out: Tensor) -> float:
    """The lambda of RIDGES whose weights, fitted to G (M, M) and C (M, classes), have the least
    squared error on other samples, of which ``G_out`` and ``C_out`` are the same.

    sum |h w - y|^2 = tr(w^T G_out w) - 2 tr(w^T C_out) + a constant. Where no lambda works, 1.
    """
    errors = {}
    for ridge in RIDGES:
        w = _solved(G, C, ridge)
        if w is not None:
            errors[ridge] = float((w * (G_out @ w)).sum() - 2 * (w * C_out).sum())
    return min(errors, key=lambda ridge: errors[ridge], default=1.0)


def ridge_weights(G: Tensor, C: Tensor, ridge: float) -> tuple[float, Tensor]:
    """(G + lambda I)^-1 C, with the least power of ten times ``ridge`` for which the arithmetic is
    exact enough to have an inverse; and that lambda."""
    while (w := _solved(G, C, ridge)) is None:
        ridge *= 10.0
    return ridge, w


def _solved(G: Tensor, C: Tensor, ridge: float) -> Tensor | None:
    """(G + lambda I)^-1 C by Cholesky; None where rounding left G + lambda I indefinite."""
    regular = G.clone()
    regular.diagonal().add_(ridge)
    factor, failed = torch.linalg.cholesky_ex(regular)
    return None if bool(failed) else torch.cholesky_solve(C, factor)
