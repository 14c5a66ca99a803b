"""The search: trials as runs of their own, scored on samples held out, equally many a method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from math import prod
from pathlib import Path
from statistics import fmean, median
from typing import Any

from pydantic import ValidationError

from lora_cl.config import Config, Experiment, RunConfig
from lora_cl.config.chosen import trained_methods
from lora_cl.config.study import MAX_TRIALS, RangeOptions, TuneOptions
from lora_cl.errors import ConfigError
from lora_cl.records.folders import read_record
from lora_cl.records.metrics import average_accuracy, rounded
from lora_cl.text import one_line
from lora_cl.tuning.search import Search, Trial, corners, make_search, own_space, space_of

NAME_LENGTH = 64 - len("-tuning")

Do = Callable[[Sequence[RunConfig]], Sequence[Path]]
"""Does runs, or finds that they are done, and returns their folders in the same order."""


@dataclass
class Tried:
    """A trial and what came of it: the score by seed, the hash of each run; ``pruned`` early."""

    trial: Trial
    scores: dict[int, float | None] = field(default_factory=dict)
    runs: dict[int, str] = field(default_factory=dict)
    pruned: bool = False

    @property
    def mean(self) -> float | None:
        """Over the seeds so far; None if one of the runs came to nothing."""
        values = [score for score in self.scores.values() if score is not None]
        return rounded(fmean(values)) if values and len(values) == len(self.scores) else None


@dataclass(frozen=True)
class Tuning:
    """All trials by label in the order they were proposed, and how it was searched."""

    options: TuneOptions
    tried: Mapping[str, Sequence[Tried]]

    def best(self, label: str) -> Tried | None:
        """The whole trial of the highest mean, of equal ones the first; None if all failed."""
        whole = [one for one in self.tried[label] if one.mean is not None and not one.pruned]
        return max(whole, key=lambda one: (one.mean, -one.trial.index), default=None)

    def trace(self) -> dict[str, Any]:
        """Everything that was tried, as JSON; the same for the same search."""
        return {
            "tune": self.options.model_dump(mode="json"),
            "methods": {label: self._trace_of(label) for label in self.tried},
        }

    def _trace_of(self, label: str) -> dict[str, Any]:
        best = self.best(label)
        trials = [
            {
                "values": dict(one.trial.values),
                "as_given": not one.trial.values,
                "validation_accuracy": one.mean,
                "by_seed": {str(seed): score for seed, score in one.scores.items()},
                "pruned": one.pruned,
                "runs": {str(seed): run for seed, run in one.runs.items()},
            }
            for one in self.tried[label]
        ]
        return {"chosen": None if best is None else best.trial.index, "trials": trials}


def tune(experiment: Experiment, runs: Sequence[RunConfig], do: Do) -> Tuning:
    """Searches for every method that one of ``runs`` is of; these are prepared and not done.

    A method that trains nothing, and of which the space has nothing, is left as it is. The same
    search finds what it did before done already. Raises ConfigError where a value of the space is
    none that a config can have; then nothing was started.
    """
    options = experiment.tune or TuneOptions()
    if experiment.config.budget is not None:
        raise experiment.error("a config with a budget is not tuned: its sizes follow", "budget")
    trained = trained_methods(experiment.config)
    content = {
        run.label: run.content
        for run in runs
        if run.label in trained or own_space(run.label, options)
    }
    check_space(experiment, options, list(content))
    seeds = options.seeds_beside(experiment.config.seeds)
    searches = {label: make_search(label, options) for label in content}
    tried: dict[str, list[Tried]] = {label: [] for label in content}
    for batch in _together(searches):
        alive = [Tried(trial) for trial in batch]
        for one in alive:
            tried[one.trial.label].append(one)
        for rung, seed in enumerate(seeds):
            asked = [
                RunConfig.of(
                    trial_config(experiment.config, one.trial, [seed], options),
                    one.trial.label,
                    seed,
                    content[one.trial.label],
                )
                for one in alive
            ]
            distinct = {run.run_hash: run for run in asked}  # Lists can give a value twice.
            folders = dict(zip(distinct, do(list(distinct.values())), strict=True))
            for one, run in zip(alive, asked, strict=True):
                one.scores[seed], one.runs[seed] = score_of(folders[run.run_hash]), run.run_hash
            if options.prune == "median" and options.search != "tpe" and rung + 1 < len(seeds):
                alive = pruned(alive)
        for label, search in searches.items():
            search.hear({one.trial.index: one.mean for one in tried[label]})
    return Tuning(options, tried)


def _together(searches: Mapping[str, Search]) -> Iterator[list[Trial]]:
    """The next batch of every method, side by side."""
    for parts in zip_longest(*(search.batches() for search in searches.values()), fillvalue=[]):
        yield [trial for part in parts for trial in part]


def score_of(folder: Path) -> float | None:
    """The average accuracy of a trial after its last task; None where it came to none."""
    record = read_record(folder)
    if record.status != "done":
        return None
    return average_accuracy(record.result["accuracy_matrix"])


def pruned(alive: Sequence[Tried]) -> list[Tried]:
    """Those of each method whose mean so far is not below the median; the others are marked."""
    means: dict[str, list[float]] = {}
    for one in alive:
        means.setdefault(one.trial.label, []).append(-1.0 if one.mean is None else one.mean)
    kept = []
    for one in alive:
        mean = -1.0 if one.mean is None else one.mean
        one.pruned = mean < median(means[one.trial.label])
        kept += [] if one.pruned else [one]
    return kept


def trial_config(
    config: Config, trial: Trial, seeds: Sequence[int], options: TuneOptions
) -> Config:
    """The config of one trial: its method alone, the first tasks, test samples nowhere."""
    changed: dict[str, Any] = with_values(config, trial.label, trial.values)
    return Config.model_validate(
        changed
        | {
            "name": f"{config.name[:NAME_LENGTH]}-tuning",
            "methods": {trial.label: changed["methods"][trial.label]},
            "seeds": list(seeds),
            "validation": config.validation or options.validation,
            "tuning": {"tasks": options.tasks},
        }
    )


def with_values(config: Config, label: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The config as plain values, with those of some keys below a method changed."""
    changed: dict[str, Any] = config.model_dump(mode="json")
    for key, value in values.items():
        *inner, last = key.split(".")
        place = changed["methods"][label]
        for part in inner:
            place[part] = {} if place.get(part) is None else place[part]
            place = place[part]
        place[last] = value
    return changed


def check_space(experiment: Experiment, options: TuneOptions, labels: Sequence[str]) -> None:
    """Raises ConfigError, at the line of the key, for a value that no trial can have."""
    for label in labels:
        space = space_of(label, options)
        ranges = [key for key, values in space.items() if isinstance(values, RangeOptions)]
        if options.search == "grid" and ranges:
            raise _at(experiment, label, ranges[0], "a range", "of a grid every key has a list")
        points = prod(len(corners(values)) for values in space.values())
        if options.search == "grid" and points > MAX_TRIALS:
            told = f"{label} has more combinations than {MAX_TRIALS:,}"
            raise _at(experiment, label, next(iter(space)), f"{points:,}", told)
        for key, values in space.items():
            for value in corners(values):
                trial = Trial(label, 1, {key: value})
                try:
                    trial_config(experiment.config, trial, [0], options)
                except (ValidationError, TypeError, AttributeError) as error:
                    raise _at(experiment, label, key, value, _told(label, error)) from None


def _told(label: str, error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return f"a key of {label} cannot be set"
    first = error.errors()[0]
    if first["type"] == "extra_forbidden":
        return f"{label} has no such key"
    return str(first["msg"]).removeprefix("Value error, ")


def _at(experiment: Experiment, label: str, key: str, value: Any, told: str) -> ConfigError:
    for name in (f"methods.{label}.{key}", key):
        if line := experiment.lines.get(("tune", "space", name)):
            where = f"{experiment.source}:{line}: tune.space.{name}"
            return ConfigError(one_line(f"{where}: {value}: {told}", 400))
    return ConfigError(one_line(f"tune.space.{key}: {value}: {told}", 400), "tune")
