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
from lora_cl.methods.means import (
    CHUNK,
    Features,
    class_means,
    class_scatter,
    class_sums,
    covariance_factor,
)
from lora_cl.options import OptionsBase
from lora_cl.text import did_you_mean

if TYPE_CHECKING:
    from lora_cl.methods.method import Method


class RouterOptions(OptionsBase):
    """`router`: how the task is found where the scenario withholds it.

    oracle: it is given, and the record says so. entropy: the task whose head is surest, for the
    number of its outputs. energy: the task whose logits have the largest logsumexp. prototype: the
    task of the nearest class mean in base features. mahalanobis: the same, by the distance that
    the covariance within classes makes. adapted-: in the features that each task answers with.
    """

    router: Literal[
        "oracle",
        "entropy",
        "energy",
        "prototype",
        "mahalanobis",
        "adapted-prototype",
        "adapted-mahalanobis",
    ] = "oracle"
    """How a withheld task id is found: given (`oracle`), by the surest head (`entropy`), by the
    logits of least `energy`, or by the nearest class mean in base features: by the plain distance
    (`prototype`), or by that of `mahalanobis`. `adapted-`: in each task's own features, measured by
    how far its own samples lie from their means."""


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
BY_BASE = ("prototype", "mahalanobis")
"""Those that look at base features, and need something kept of every task."""


def mean_spread(scatter: Tensor, samples: int) -> Tensor:
    """The root () of the mean squared distance of ``samples`` from their means; 1 if it is 0."""
    spread = (scatter.trace() / samples).sqrt()
    return torch.where(spread > 0, spread, torch.ones_like(spread))


BY_ADAPTED: dict[str, Callable[[Tensor, int], Tensor]] = {
    "adapted-prototype": mean_spread,
    "adapted-mahalanobis": covariance_factor,
}
"""Those that look at the features of every task's own view, and what they measure distances there
by, so that those of other tasks compare with them: made of the task's scatter (d, d) and how many
samples it is, a length () or a factor (d, d)."""
ROUTERS = (*BY_LOGITS, *BY_BASE, *BY_ADAPTED)

SCATTER, SAMPLES = "scatter", "scatter.samples"


def check_router(options: OptionsBase, scenario: str) -> None:
    """Refuses a router where the task id is given anyway."""
    router = getattr(options, "router", "oracle")
    if scenario == "task" and router != "oracle":
        raise ConfigError(
            f"router {router} has nothing to find: a task-incremental run gives the task id"
        )


def remember(method: Method, task: Task) -> None:
    """Adds to ``method.kept`` what its router needs of ``task``, whose samples are still there.

    The class means (m, d) of the m classes that have samples, in the router's features; for
    mahalanobis also the sum over all tasks of the scatter within classes (d, d), and of how many
    samples it is; for the adapted ones the task's own scale, see ``BY_ADAPTED``.
    """
    if method.router in BY_BASE:
        means = _keep_means(method, f"prototypes.{task.id}", method.base_features, task)
        if method.router == "mahalanobis":
            found = _scatter(method.base_features, task, means)
            for name, more in zip((SCATTER, SAMPLES), found, strict=True):
                method.kept[name] = method.kept.get(name, torch.zeros_like(more)) + more
    elif method.router in BY_ADAPTED:
        with method.view(task.id) as network:
            features = network.eval().backbone
            means = _keep_means(method, f"adapted.means.{task.id}", features, task)
            scatter, samples = _scatter(features, task, means)
        method.kept[f"{method.router}.{task.id}"] = BY_ADAPTED[method.router](scatter, int(samples))


def _keep_means(method: Method, name: str, features: Features, task: Task) -> Tensor:
    """The means (k, d) of all classes of ``task``; of those with samples they are kept."""
    samples = task.train()
    sums, counts = class_sums(features, samples.x, samples.y, task.classes)
    means = class_means(sums, counts)
    method.kept[name] = means[counts > 0]
    return means


def _scatter(features: Features, task: Task, means: Tensor) -> tuple[Tensor, Tensor]:
    """The scatter (d, d) of the samples of ``task`` about ``means``, and how many they are ()."""
    samples = task.train()
    total = torch.tensor(len(samples.y), device=means.device)
    return class_scatter(features, samples.x, samples.y, means), total


def route(method: Method, x: Inputs, router: str) -> tuple[Tensor, Tensor]:
    """For inputs x (N, *input): the task (N,) that ``router`` finds, and the output (N,) then; see
    ``Method.route``. MethodError for a router that is none, or that nothing was kept for."""
    _require(router, method.kept, method.learned)
    labels, scores = [], []
    for task_id in method.learned:
        with method.view(task_id) as network:
            network.eval()
            features = torch.cat([network.backbone(part) for part in parts(x, CHUNK)])
            logits = network.logits(features)
        first = method.benchmark.first_class(task_id)
        labels.append(logits.argmax(1) + (first if method.benchmark.scenario == "class" else 0))
        if router in BY_LOGITS:
            scores.append(BY_LOGITS[router](logits))
        elif router in BY_ADAPTED:
            scale = method.kept[f"{router}.{task_id}"]
            means = method.kept[f"adapted.means.{task_id}"]
            scores.append(nearest(*(scaled(h, scale) for h in (features.flatten(1), means))))
    if router in BY_BASE:
        features = torch.cat([method.base_features(part).flatten(1) for part in parts(x, CHUNK)])
        sets = [method.kept[f"prototypes.{task_id}"] for task_id in method.learned]
        if router == "mahalanobis":
            factor = covariance_factor(method.kept[SCATTER], int(method.kept[SAMPLES]))
            features, *sets = (scaled(rows, factor) for rows in (features, *sets))
        scores = [nearest(features, means) for means in sets]
    chosen = torch.stack(scores).argmin(dim=0)
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
        **{
            name: ("class means in its own features", [f"{name}.{task_id}" for task_id in tasks])
            for name in BY_ADAPTED
        },
    }
    what, names = needed.get(router, ("", []))
    if not all(name in kept for name in names):
        raise MethodError(
            f"router {router} needs {what} of every task, and they were not kept: they are where "
            f"a run is trained with `router: {router}`; {' and '.join(BY_LOGITS)} need nothing"
        )


def nearest(features: Tensor, means: Tensor) -> Tensor:
    """The distance (N,) of features (N, d) from the nearest of means (m, d).

    That of a row does not depend on the rows beside it.
    """
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(features, means, compute_mode=exact).amin(dim=1)


def scaled(features: Tensor, scale: Tensor) -> Tensor:
    """Features h (N, d) measured by a length s (), h / s, or by a factor L (d, d), L^-1 h: then
    their distances are those of Mahalanobis, |L^-1 (h - m)|."""
    if not scale.dim():
        return features / scale
    rows: Tensor = torch.linalg.solve_triangular(scale, features.to(scale).T, upper=False).T
    return rows.contiguous()
