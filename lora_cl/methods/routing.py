"""Which task an input belongs to, for methods that must know it where nobody says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from lora_cl.data.streaming import Inputs, parts
from lora_cl.errors import ConfigError
from lora_cl.options import OptionsBase

CHUNK = 2048


class RouterOptions(OptionsBase):
    """`router`: how the task is found where the scenario withholds it.

    oracle: it is given, and the record says so. entropy: the task whose head is surest.
    prototype: the task of the nearest class mean in base features.
    """

    router: Literal["oracle", "entropy", "prototype"] = "oracle"


def check_router(options: OptionsBase, scenario: str) -> None:
    """Refuses a router where the task id is given anyway."""
    router = getattr(options, "router", "oracle")
    if scenario == "task" and router != "oracle":
        raise ConfigError(
            f"router {router} has nothing to find: a task-incremental run gives the task id"
        )


def entropy(logits: Tensor) -> Tensor:
    """The entropy (N,) in nats of the softmax of logits (N, k)."""
    log_p = functional.log_softmax(logits, dim=1)
    return -(log_p.exp() * log_p).sum(dim=1)


def class_means(features: Callable[[Tensor], Tensor], x: Inputs, y: Tensor, k: int) -> Tensor:
    """The mean feature (k, d) of each of k labels; a label without samples is infinitely far."""
    with torch.inference_mode():
        h = torch.cat([features(part).flatten(1) for part in parts(x, CHUNK)])
        one_hot = functional.one_hot(y, k).to(h.dtype)
        counts = one_hot.sum(0)[:, None]
        means = (one_hot.T @ h) / counts
        return torch.where(counts > 0, means, torch.full_like(means, torch.inf)).clone()


def nearest_task(features: Tensor, means: Sequence[Tensor]) -> Tensor:
    """For features (N, d), the index (N,) of the set of means (k, d) that holds the nearest."""
    distances = [torch.cdist(features, mean).amin(dim=1) for mean in means]
    return torch.stack([torch.nan_to_num(d, nan=torch.inf) for d in distances]).argmin(dim=0)
