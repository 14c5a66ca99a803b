"""Class means of features, the scatter about them, and the covariance that it makes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from lora_cl.data.streaming import Inputs, parts

CHUNK = 2048

Features = Callable[[Tensor], Tensor]
"""What a backbone makes of inputs: (N, *input) -> (N, d), or what can be flattened to that."""


def exact_type(device: torch.device) -> torch.dtype:
    """For sums that are inverted later: float64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


@torch.no_grad()
def class_sums(features: Features, x: Inputs, y: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Of inputs x (N, *input) with labels y (N,): for each of k labels the sum (k, d) of their
    ``features``, x -> (n, d), and how many they are (k,) int64."""
    total = []
    for part, labels in zip(parts(x, CHUNK), torch.split(y, CHUNK), strict=True):
        h = features(part).flatten(1)
        total.append(functional.one_hot(labels, k).to(h.dtype).T @ h)
    counts = functional.one_hot(y, k).sum(0)
    return torch.stack(total).sum(0), counts


def class_means(sums: Tensor, counts: Tensor) -> Tensor:
    """The means (k, d) of what ``class_sums`` says; 0 for a class without samples."""
    return sums / counts.clamp(min=1)[:, None]


@torch.no_grad()
def class_scatter(features: Features, x: Inputs, y: Tensor, means: Tensor) -> Tensor:
    """The sum (d, d) of (h - m)(h - m)^T over the ``features`` h of inputs x (N, *input), m the row
    of ``means`` (k, d) of their label in y (N,)."""
    exact = exact_type(means.device)
    total = torch.zeros(means.shape[1], means.shape[1], dtype=exact, device=means.device)
    for part, labels in zip(parts(x, CHUNK), torch.split(y, CHUNK), strict=True):
        apart = features(part).flatten(1).to(exact) - means[labels].to(exact)
        total.addmm_(apart.T, apart)
    return total


def shrinkage(covariance: Tensor, samples: int) -> float:
    """The rho in [0, 1] of (1 - rho) S + rho tr(S)/d I that is nearest to the true covariance, for
    S (d, d) of n ``samples`` of a Gaussian (OAS: Chen et al. 2010, arXiv 0907.4698, equation 23).

    rho = ((1 - 2/d) tr(S^2) + tr(S)^2) / ((n + 1 - 2/d) (tr(S^2) - tr(S)^2 / d)), at most 1.
    """
    d = len(covariance)
    square = float(covariance.square().sum())
    trace = float(covariance.trace()) ** 2
    above, below = (1 - 2 / d) * square + trace, (samples + 1 - 2 / d) * (square - trace / d)
    return 1.0 if above >= below else above / below


def covariance_factor(scatter: Tensor, samples: int) -> Tensor:
    """The lower Cholesky factor L (d, d) of the covariance that all classes share (Lee et al. 2018,
    arXiv 1807.03888, equation 1): scatter / n, shrunk by ``shrinkage``; that of the identity where
    no sample differs from the mean of its class."""
    covariance = scatter / samples
    d, rho = len(covariance), shrinkage(covariance, samples)
    size = covariance.trace() / d
    if not size:
        return torch.eye(d, dtype=scatter.dtype, device=scatter.device)
    covariance = (1 - rho) * covariance
    covariance.diagonal().add_(rho * size)
    factor: Tensor = torch.linalg.cholesky(covariance)
    return factor


class NearestMean(nn.Module):
    """Answers with the class whose mean m is nearest: h (N, d) -> m.h - |m|^2 / 2 (N, classes).

    That is -|h - m|^2 / 2 but for a term that all classes share (Mensink et al. 2013). A class
    without samples has no mean: its logit is minus infinity, the log of its probability, so that
    it is never the answer.
    """

    sums: Tensor
    counts: Tensor

    def __init__(self, classes: int, features: int, device: torch.device) -> None:
        super().__init__()
        self.out_features = classes
        self.register_buffer("sums", torch.zeros(classes, features, device=device))
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.int64, device=device))

    def take(self, features: Features, x: Inputs, y: Tensor, first: int, seed: int) -> None:
        """See ``Statistics``."""
        self.add(*class_sums(features, x, y, int(y.max()) + 1), first)

    def add(self, sums: Tensor, counts: Tensor, first: int) -> None:
        """Takes in what ``class_sums`` says of the classes from ``first`` on."""
        rows = slice(first, first + len(counts))
        self.sums[rows] += sums
        self.counts[rows] += counts

    def forward(self, features: Tensor) -> Tensor:
        means = class_means(self.sums, self.counts)
        logits = features @ means.T - means.square().sum(1) / 2
        return logits.masked_fill(self.counts == 0, float("-inf"))
