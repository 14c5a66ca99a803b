"""What is tried: values for the keys of a method, drawn at random or proposed by Optuna."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

from lora_cl.config.study import RangeOptions, TuneOptions, Values
from lora_cl.errors import ConfigError
from lora_cl.seeding import seed_for

Space = Mapping[str, "Values | RangeOptions"]

AT_ONCE = 4
"""How many trials of a method Optuna proposes before it hears of them, whatever the jobs."""


@dataclass(frozen=True)
class Trial:
    """Values by key, as below the method in a config; none of them: the config as it is."""

    label: str
    index: int
    values: Mapping[str, Any]


def space_of(label: str, options: TuneOptions) -> dict[str, Values | RangeOptions]:
    """The keys of one method: those of `train` that all have, and those of its own before them."""
    space = {k: v for k, v in options.space.items() if not k.startswith("methods.")}
    return space | own_space(label, options)


def own_space(label: str, options: TuneOptions) -> dict[str, Values | RangeOptions]:
    """The keys that the space has of one method alone."""
    own = f"methods.{label}."
    return {k.removeprefix(own): v for k, v in options.space.items() if k.startswith(own)}


class Search(Protocol):
    """Proposes the trials of one method in batches, and hears of the batch before."""

    def batches(self) -> Iterator[list[Trial]]: ...
    def hear(self, scores: Mapping[int, float | None]) -> None:
        """The scores by the index of the trial; None where it came to none."""


class RandomSearch:
    """All trials at once. A key of `train` gets the same draws for every method."""

    def __init__(self, label: str, options: TuneOptions) -> None:
        self.label, self.options = label, options

    def batches(self) -> Iterator[list[Trial]]:
        space = space_of(self.label, self.options)
        yield [
            Trial(self.label, index, {k: self._drawn(k, v, index) for k, v in space.items()})
            if index and space
            else Trial(self.label, index, {})
            for index in range(self.options.trials if space else 1)
        ]

    def hear(self, scores: Mapping[int, float | None]) -> None:
        pass

    def _drawn(self, key: str, values: Values | RangeOptions, index: int) -> Any:
        stream = ("tuning", key, index)
        if key in own_space(self.label, self.options):
            stream = ("tuning", self.label, key, index)  # type: ignore[assignment]
        return value_at(values, random.Random(seed_for(self.options.seed, *stream)).random())


class GridSearch:
    """The config as it is, and every combination of the values of a method's lists."""

    def __init__(self, label: str, options: TuneOptions) -> None:
        self.label, self.options = label, options

    def batches(self) -> Iterator[list[Trial]]:
        space = space_of(self.label, self.options)
        lists = [values for values in space.values() if isinstance(values, list)]
        assert len(lists) == len(space)
        points = [dict(zip(space, point, strict=True)) for point in product(*lists)]
        yield [Trial(self.label, index, point) for index, point in enumerate([{}, *points])]

    def hear(self, scores: Mapping[int, float | None]) -> None:
        pass


class OptunaSearch:
    """Optuna's tree-structured Parzen estimator, some trials at a time."""

    def __init__(self, label: str, options: TuneOptions) -> None:
        self.label, self.options = label, options
        self.asked: dict[int, Any] = {}
        optuna = _optuna()
        seed = seed_for(options.seed, "tuning", label) % 2**32
        self.study = optuna.create_study(
            direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed)
        )

    def batches(self) -> Iterator[list[Trial]]:
        space = space_of(self.label, self.options)
        total = self.options.trials if space else 1
        yield [Trial(self.label, 0, {})]  # The config as it is, whose values may lie outside.
        for start in range(1, total, AT_ONCE):
            batch = range(start, min(start + AT_ONCE, total))
            yield [Trial(self.label, index, self._proposed(index, space)) for index in batch]

    def hear(self, scores: Mapping[int, float | None]) -> None:
        for index, score in scores.items():
            if index in self.asked:
                state = {} if score is not None else {"state": _optuna().trial.TrialState.FAIL}
                self.study.tell(self.asked[index], score, **state)

    def _proposed(self, index: int, space: Space) -> dict[str, Any]:
        trial = self.asked[index] = self.study.ask()
        return {key: _suggested(trial, key, values) for key, values in space.items()}


def _suggested(trial: Any, key: str, values: Values | RangeOptions) -> Any:
    if not isinstance(values, RangeOptions):  # By their places: a value may be a mapping.
        return values[trial.suggest_categorical(key, list(range(len(values))))]
    low, high = values.bounds
    if values.kind == "integer":
        return trial.suggest_int(key, int(low), int(high), log=True)
    return trial.suggest_float(key, low, high, log=values.kind == "log")


def value_at(values: Values | RangeOptions, u: float) -> Any:
    """The value at u, uniform in [0, 1): of several each as likely; numbers in four digits."""
    if not isinstance(values, RangeOptions):
        return values[int(u * len(values))]
    low, high = values.bounds
    if values.kind == "uniform":
        return _four_digits(low + u * (high - low))
    if values.kind == "integer":
        return min(int(high), int(math.exp(math.log(low) + u * math.log((high + 1) / low))))
    return _four_digits(math.exp(math.log(low) + u * math.log(high / low)))


def _four_digits(value: float) -> float:
    return float(f"{value:.3e}")


def corners(values: Values | RangeOptions) -> Sequence[Any]:
    """The values that a config must take if it takes all: those listed, or the bounds."""
    if not isinstance(values, RangeOptions):
        return values
    return values.bounds


def make_search(label: str, options: TuneOptions) -> Search:
    return SEARCHES[options.search](label, options)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError(
            "search tpe needs optuna: pip install 'lora-cl[tune]'", "tune.search"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


SEARCHES: dict[str, Callable[[str, TuneOptions], Search]] = {
    "random": RandomSearch,
    "grid": GridSearch,
    "tpe": OptunaSearch,
}
