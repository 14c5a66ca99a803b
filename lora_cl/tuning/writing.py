"""The config with the values that were chosen, as YAML."""

from __future__ import annotations

from typing import Any

from lora_cl.config import Config
from lora_cl.config.study import TuneOptions
from lora_cl.config.syntax import to_yaml
from lora_cl.tuning.search import space_of
from lora_cl.tuning.tuner import NAME_LENGTH, Tuning, with_values

NAMES = ("name", "method")


def tuned_yaml(config: Config, tuning: Tuning, trace_sha256: str, command: str) -> str:
    """``config`` with the chosen values, every method of which says that it is tuned.

    A method without a whole trial stays as it was, and says nothing. ``command`` runs the file.
    """
    changed = config
    for label in tuning.tried:
        best, keys = tuning.best(label), list(space_of(label, tuning.options))
        if best is None or not keys:
            continue
        values = dict(best.trial.values)
        trials = len(tuning.tried[label])
        values["tuned"] = {"keys": keys, "trials": trials, "trace": f"sha256:{trace_sha256}"}
        changed = Config.model_validate(with_values(changed, label, values))
    changed = changed.model_copy(update={"name": f"{config.name[:NAME_LENGTH]}-tuned"})
    options = tuning.options
    tasks = "all tasks" if options.tasks is None else f"the first {options.tasks} tasks"
    head = [
        f"# {config.name}, tuned: {_search_of(options)} on {tasks}, no test sample seen.",
        f"# {command}",
        "# Expect: what was tuned is under `tuned` of each method; the trials are in the trace.",
    ]
    plain = _without_defaults(
        changed.model_dump(mode="json"), changed.model_dump(mode="json", exclude_defaults=True)
    )
    return "\n".join(head) + "\n" + to_yaml(plain)


def _search_of(options: TuneOptions) -> str:
    if options.search == "grid":
        return "every point of a grid for each method"
    return f"{options.trials} trials a method ({options.search})"


def _without_defaults(whole: Any, given: Any) -> Any:
    """``whole`` where it is no default, and the names of parts, which are defaults of theirs."""
    if not isinstance(whole, dict) or not isinstance(given, dict):
        return whole
    return {
        key: _without_defaults(value, given[key]) if key in given else value
        for key, value in whole.items()
        if key in given or key in NAMES
    }
