"""What answers on the features that a method learned: trained outputs, or statistics of classes."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from lora_cl.data.streaming import Inputs
from lora_cl.errors import ConfigError
from lora_cl.methods.means import Features, NearestMean
from lora_cl.methods.ranpac import RandomProjection
from lora_cl.methods.slda import SharedCovariance
from lora_cl.options import OptionsBase, choice


class TrainedOptions(OptionsBase):
    """No options."""


class RanPACOptions(OptionsBase):
    """`width`: the random features M that the backbone's are projected to; 10000 in the paper.
    `ridge_by`: lambda is chosen, with every task, by a fifth of its samples (the paper), or by a
    fifth of those of all tasks so far."""

    width: Annotated[int, Field(ge=1, le=65536)] = 2000
    """How many random features."""
    ridge_by: Literal["newest-task", "all-tasks"] = "newest-task"
    """Whose samples choose lambda."""


ClassifierChoice: Any = choice(
    {
        "joint": TrainedOptions,
        "all-classes": TrainedOptions,
        "local": TrainedOptions,
        "ncm": TrainedOptions,
        "slda": TrainedOptions,
        "ranpac": RanPACOptions,
    }
)


class ClassifierOptions(OptionsBase):
    """`classifier`: what answers. joint: the outputs of all classes so far, trained in one softmax.
    all-classes: those of classes to come among them, from the first task on. local: those of each
    task, trained in a softmax of their own, and side by side to answer.
    ncm: the nearest class mean, slda: the same by the distance that the covariance within classes
    makes, ranpac: ridge regression on random features; all three taken of the
    features when a task is learned. null: local where a task has its own outputs, else joint.
    """

    classifier: ClassifierChoice | None = None
    """What answers: `joint`, `all-classes`, `local`, `ncm`, `slda` or `ranpac`; null: `local`
    where a task has its own outputs, else `joint`."""


class Statistics(Protocol):
    """A classifier that is not trained: it takes in samples, and gives (N, d) -> (N, classes)."""

    def take(self, features: Features, x: Inputs, y: Tensor, first: int, seed: int) -> None:
        """Takes in inputs x (N, *input) of the classes ``first`` + y, y (N,); draws from ``seed``.

        ``features`` are those of the backbone, x -> (n, d).
        """


def statistics(
    options: Any, classes: int, features: int, seed: int, device: torch.device, *, again: bool
) -> nn.Module:
    """The classifier of statistics that ``options`` name, before it has seen a sample.

    ``again``: whether its classes come in several parts.
    """
    if options.name == "ncm":
        return NearestMean(classes, features, device)
    if options.name == "slda":
        return SharedCovariance(classes, features, device, again=again)
    of_all = options.ridge_by == "all-tasks"
    return RandomProjection(
        classes, features, options.width, seed, device, again=again, of_all=of_all
    )


def is_trained(name: str) -> bool:
    return name in ("joint", "all-classes", "local")


def check_classifier(options: OptionsBase, name: str, private_heads: bool, scenario: str) -> None:
    """Refuses a classifier that the method ``name`` cannot have in a scenario."""
    chosen = getattr(options, "classifier", None)
    if chosen is None:
        return
    if private_heads and chosen.name != "local":
        raise ConfigError(
            f"classifier {chosen.name} is for methods whose tasks share a backbone; with {name} a "
            "task has a part and outputs of its own, trained on its classes alone (local), and a "
            "router finds the task"
        )
    if scenario == "domain" and chosen.name == "local":
        raise ConfigError(
            "classifier local has no meaning in a domain-incremental run, whose tasks share labels"
        )
    if scenario == "domain" and chosen.name == "all-classes":
        raise ConfigError(
            "classifier all-classes has no meaning in a domain-incremental run, where no class is "
            "still to come"
        )
    if scenario == "task" and chosen.name in ("joint", "all-classes"):
        raise ConfigError(
            f"classifier {chosen.name} has no meaning in a task-incremental run, where a task is "
            "answered among outputs of its own (local)"
        )
