"""Which task an input belongs to, for methods that must know it where nobody says."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from lora_cl.benchmarks import Task
from lora_cl.data.streaming import Inputs, parts
from lora_cl.errors import ConfigError, MethodError
from lora_cl.methods.means import CHUNK, Features, class_scatter, class_sums
from lora_cl.options import OptionsBase
from lora_cl.text import did_you_mean

if TYPE_CHECKING:
    from lora_cl.methods.method import Method


class RouterOptions(OptionsBase):
    """`router`: how the task is found where the scenario withholds it.

    oracle: it is given, and the record says so. entropy: the task whose head is surest, for the
    number of its outputs. energy: the task whose logits have the largest logsumexp. prototype: the
    task of the nearest class mean in base features. mahalanobis: the same, by the distance that
    the covariance within classes makes.
    """

    router: Literal["oracle", "entropy", "energy", "prototype", "mahalanobis"] = "oracle"
    """How a withheld task id is found: given (`oracle`), by the surest head (`entropy`), by the
    logits of least `energy`, or by the nearest class mean in base features: by the plain distance
    (`prototype`), or by that of `mahalanobis`."""


def doubt(logits: Tensor) -> Tensor:
    """The entropy of the softmax of logits (N, k), as a share (N,) of the most it can be, ln k.

    Heads of different sizes can be compared by it. A head with one output cannot doubt and says
    nothing: its share is 1, that of one that knows nothing.
    """
    k = logits.shape[1]
    if k == 1:
        return torch.ones_like(logits[:, 0])
    entropy: Tensor = torch.special.entr(logits.softmax(dim=1)).sum(dim=1)
    return entropy / math.log(k)


def energy(logits: Tensor) -> Tensor:
    """E(x) (N,) = -T ln sum_c exp(f_c(x) / T) of logits f (N, k), at T = 1, as in the paper; low
    for inputs like those that were trained on (Liu et al. 2020, arXiv 2010.03759, equation 4)."""
    return -logits.logsumexp(dim=1)


BY_LOGITS: dict[str, Callable[[Tensor], Tensor]] = {"entropy": doubt, "energy": energy}
"""What each head's logits (N, k) say against its task, (N,): the least is chosen."""
BY_FEATURES = ("prototype", "mahalanobis")
"""Those that look at base features, and need something kept of every task."""
ROUTERS = (*BY_LOGITS, *BY_FEATURES)

SCATTER, SAMPLES = "scatter", "scatter.samples"


def check_router(options: OptionsBase, scenario: str) -> None:
    """Refuses a router where the task id is given anyway."""
    router = getattr(options, "router", "oracle")
    if scenario == "task" and router != "oracle":
        raise ConfigError(
            f"router {router} has nothing to find: a task-incremental run gives the task id"
        )


def remember(kept: dict[str, Tensor], router: str, features: Features, task: Task) -> None:
    """Adds to ``kept`` what ``router`` needs of ``task``, in base ``features``.

    The class means (m, d), of the m classes that have samples; for mahalanobis also the sum over
    all tasks of the scatter within classes (d, d), and of how many samples it is.
    """
    if router not in BY_FEATURES:
        return
    samples = task.train()
    sums, counts = class_sums(features, samples.x, samples.y, task.classes)
    means = sums / counts.clamp(min=1)[:, None]
    kept[f"prototypes.{task.id}"] = means[counts > 0]
    if router == "mahalanobis":
        scatter = class_scatter(features, samples.x, samples.y, means)
        kept[SCATTER] = kept.get(SCATTER, torch.zeros_like(scatter)) + scatter
        kept[SAMPLES] = kept.get(SAMPLES, torch.zeros_like(counts.sum())) + counts.sum()


def route(method: Method, x: Inputs, router: str) -> tuple[Tensor, Tensor]:
    """For inputs x (N, *input): the task (N,) that ``router`` finds, and the output (N,) then; see
    ``Method.route``. MethodError for a router that is none, or that nothing was kept for."""
    _require(router, method.kept, method.learned)
    labels, scores = [], []
    for task_id in method.learned:
        with method.view(task_id) as network:
            network.eval()
            logits = torch.cat([network(part) for part in parts(x, CHUNK)])
        first = method.benchmark.first_class(task_id)
        labels.append(logits.argmax(1) + (first if method.benchmark.scenario == "class" else 0))
        if router in BY_LOGITS:
            scores.append(BY_LOGITS[router](logits))
    if router in BY_LOGITS:
        chosen = torch.stack(scores).argmin(dim=0)
    else:
        features = torch.cat([method.base_features(part).flatten(1) for part in parts(x, CHUNK)])
        means = [method.kept[f"prototypes.{task_id}"] for task_id in method.learned]
        if router == "mahalanobis":
            factor = covariance_factor(method.kept[SCATTER], int(method.kept[SAMPLES]))
            features, *means = (whitened(rows, factor) for rows in (features, *means))
        chosen = nearest_task(features, means)
    label = torch.stack(labels).gather(0, chosen[None])[0]
    return torch.tensor(method.learned, device=x.device)[chosen], label


def _require(router: str, kept: Mapping[str, Tensor], tasks: Sequence[int]) -> None:
    """Refuses, with a MethodError, a router that nothing was kept for."""
    if router not in ROUTERS:
        hint = did_you_mean(router, ROUTERS)
        raise MethodError(f"router {router[:40]!r} is not one of {', '.join(ROUTERS)}{hint}")
    means = [f"prototypes.{task_id}" for task_id in tasks]
    needed = {
        "prototype": ("class means", means),
        "mahalanobis": ("class means and their covariance", [*means, SCATTER, SAMPLES]),
    }
    what, names = needed.get(router, ("", []))
    if not all(name in kept for name in names):
        raise MethodError(
            f"router {router} needs {what} of every task, and they were not kept: they are where "
            f"a run is trained with `router: {router}`; {' and '.join(BY_LOGITS)} need nothing"
        )


def nearest_task(features: Tensor, means: Sequence[Tensor]) -> Tensor:
    """For features (N, d), the index (N,) of the set of means (m, d) that holds the nearest.

    The distances of a row do not depend on the rows beside it.
    """
    exact = "donot_use_mm_for_euclid_dist"
    distances = [torch.cdist(features, mean, compute_mode=exact).amin(dim=1) for mean in means]
    return torch.stack(distances).argmin(dim=0)


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


def whitened(features: Tensor, factor: Tensor) -> Tensor:
    """L^-1 h of features h (N, d): their distances are those of Mahalanobis, |L^-1 (h - m)|."""
    rows: Tensor = torch.linalg.solve_triangular(factor, features.to(factor).T, upper=False).T
    return rows.contiguous()
