"""Linear discriminant analysis, taken in task by task: class means and one covariance for all."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lora_cl.data.streaming import Inputs
from lora_cl.methods.means import (
    Features,
    class_means,
    class_scatter,
    class_sums,
    covariance_factor,
    exact_type,
)


class SharedCovariance(nn.Module):
    """Hayes & Kanan 2020, arXiv 1909.01520: h (N, d) -> m_c^T S^-1 h - m_c^T S^-1 m_c / 2.

    That is, but for a term that all classes share, minus half the squared Mahalanobis distance from
    the mean m_c of class c, S the covariance within classes of all samples so far. The paper's
    shrinks S by a constant, 1e-4; here it is as ``covariance_factor`` has it, so that the router
    `mahalanobis` measures by the same. A class without samples is never the answer. The scatter is
    kept if more samples are to come (``again``).
    """

    scatter: Tensor | None
    sums: Tensor
    counts: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, classes: int, features: int, device: torch.device, *, again: bool) -> None:
        super().__init__()
        self.out_features = classes
        exact = exact_type(device)
        scatter = torch.zeros(features, features, dtype=exact, device=device)
        self.register_buffer("scatter", scatter if again else None)
        self.register_buffer("sums", torch.zeros(classes, features, dtype=exact, device=device))
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.int64, device=device))
        self.register_buffer("weight", torch.zeros(classes, features, device=device))
        self.register_buffer("bias", torch.zeros(classes, device=device))

    def forward(self, features: Tensor) -> Tensor:
        logits = features.flatten(1) @ self.weight.T + self.bias
        return logits.masked_fill(self.counts == 0, float("-inf"))

    @torch.no_grad()
    def take(self, features: Features, x: Inputs, y: Tensor, first: int, seed: int) -> None:
        """See ``Statistics``: updates the means, S and what answers."""
        sums, counts = class_sums(features, x, y, int(y.max()) + 1)
        sums, rows = sums.to(self.sums), slice(first, first + len(counts))
        means = class_means(sums, counts)
        scatter = class_scatter(features, x, y, means)
        scatter += between(
            class_means(self.sums[rows], self.counts[rows]), self.counts[rows], means, counts
        )
        self.sums[rows] += sums
        self.counts[rows] += counts
        if self.scatter is not None:
            scatter = self.scatter.add_(scatter)
        factor = covariance_factor(scatter, int(self.counts.sum()))
        means = class_means(self.sums, self.counts)
        weight = torch.cholesky_solve(means.T, factor).T
        self.weight.copy_(weight)
        self.bias.copy_(-(means * weight).sum(1) / 2)


def between(m: Tensor, n: Tensor, m_new: Tensor, n_new: Tensor) -> Tensor:
    """What the scatter (d, d) of two parts of the samples of each class lacks of that about their
    common mean: sum_c n n' / (n + n') (m - m')(m - m')^T, for means (k, d) of n (k,) samples."""
    share = n * n_new / (n + n_new).clamp(min=1)
    apart = m - m_new
    return (apart * share[:, None]).T @ apart
