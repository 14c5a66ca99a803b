"""Which task an input belongs to, for methods that must know it where nobody says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from lora_cl.errors import ConfigError, MethodError
from lora_cl.options import OptionsBase
from lora_cl.text import did_you_mean


class RouterOptions(OptionsBase):
    """`router`: how the task is found where the scenario withholds it.

    oracle: it is given, and the record says so. entropy: the task whose head is surest, for the
    number of its outputs. prototype: the task of the nearest class mean in base features.
    """

    router: Literal["oracle", "entropy", "prototype"] = "oracle"
    """How a withheld task id is found: given (`oracle`), by the surest head, or by the nearest
    class mean in base features."""


def check_router(options: OptionsBase, scenario: str) -> None:
    """Refuses a router where the task id is given anyway."""
    router = getattr(options, "router", "oracle")
    if scenario == "task" and router != "oracle":
        raise ConfigError(
            f"router {router} has nothing to find: a task-incremental run gives the task id"
        )


def require_router(router: str, has_means: bool) -> None:
    """Refuses, with a MethodError, a router that nothing was kept for."""
    if router not in ("entropy", "prototype"):
        hint = did_you_mean(router, ["entropy", "prototype"])
        raise MethodError(f"router {router[:40]!r} is not one of entropy, prototype{hint}")
    if router == "prototype" and not has_means:
        raise MethodError(
            "router prototype needs class means, and none were kept: "
            "they are where a run is trained with `router: prototype`; entropy needs nothing"
        )


def doubt(logits: Tensor) -> Tensor:
    """The entropy of the softmax of logits (N, k), as a share (N,) of the most it can be, ln k.

    Heads of different sizes can be compared by it. A head with one output cannot doubt and says
    nothing: its share is 1, that of one that knows nothing.
    """
    k = logits.shape[1]
    if k == 1:
        return torch.ones_like(logits[:, 0])
    entropy: Tensor = torch.special.entr(functional.softmax(logits, dim=1)).sum(dim=1)
    return entropy / math.log(k)


def nearest_task(features: Tensor, means: Sequence[Tensor]) -> Tensor:
    """For features (N, d), the index (N,) of the set of means (m, d) that holds the nearest.

    The distances of a row do not depend on the rows beside it.
    """
    exact = "donot_use_mm_for_euclid_dist"
    distances = [torch.cdist(features, mean, compute_mode=exact).amin(dim=1) for mean in means]
    return torch.stack(distances).argmin(dim=0)
