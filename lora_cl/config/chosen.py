"""`tuned` in the place of a value: the one that `lora-cl tune` chose, as the package ships it.

The configs in configs/tuned are what `tune` wrote. The one of the same benchmark, scenario and
model has the value of the label, or else of the first label of the same method.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import ValidationError

from lora_cl.config.model import Config
from lora_cl.config.syntax import from_yaml
from lora_cl.methods import METHODS
from lora_cl.options import AtKeyError
from lora_cl.shipped import TUNED, shipped
from lora_cl.text import did_you_mean

Key = tuple[str, ...]

MADE_ALIKE = ("benchmark", "scenario", "model")
"""What a tuned config must share with one that takes its values."""


def with_chosen(value: Any) -> Any:
    """A config as it was read, with the shipped values in the place of `tuned`.

    Looked at are the keys of `train`, for every method that trains and has none of its own there,
    and those of methods. Raises AtKeyError, at the key, where no value is shipped.
    """
    asked = list(_asked(value))
    if not asked:
        return value
    if not isinstance(value.get("methods"), Mapping):
        raise AtKeyError(asked[0], "`tuned` is taken by label: give `methods`")
    changed = copy.deepcopy(value)
    for *inner, last in asked:
        _within(changed, inner).pop(last)
    try:
        known = Config.model_fields
        config = Config.model_validate({k: v for k, v in changed.items() if k in known})
    except ValidationError:
        return changed  # What else is wrong is said first.
    for path in asked:
        shared = path[0] == "train"
        for label in trained_methods(config) if shared else [path[1]]:
            if not shared or path[1] not in config.methods[label].train.given():
                _put(changed, config, label, path if shared else path[2:], path)
    return changed


def trained_methods(config: Config) -> list[str]:
    """The labels of the methods that train anything."""
    methods = config.methods.items()
    return [label for label, options in methods if METHODS[options.method].trains(options)]


def _asked(value: Any) -> Iterator[Key]:
    """The paths at which `tuned` stands."""
    for key in ("train", "methods"):
        part = value.get(key) if isinstance(value, Mapping) else None
        waiting: list[tuple[Key, Any]] = [((key,), part)]
        while waiting:
            path, node = waiting.pop()
            if isinstance(node, Mapping):
                waiting += [((*path, inner), item) for inner, item in node.items()]
            elif node == TUNED and len(path) > 1:
                yield path


def _within(value: Any, path: list[str]) -> Any:
    """The mapping at the path; what is not there becomes an empty one."""
    for part in path:
        value[part] = {} if value.get(part) is None else value[part]
        value = value[part]
    return value


def _put(value: Any, config: Config, label: str, key: Key, path: Key) -> None:
    """Puts the shipped value of a method's key into ``value``, and of which trials it is."""
    chosen, tuned = _chosen(config, label, key, path)
    _within(value, ["methods", label, *key[:-1]])[key[-1]] = chosen
    method = value["methods"][label]
    keys = [*method.get("tuned", {}).get("keys", []), ".".join(key)]
    method["tuned"] = {**tuned, "keys": keys}


def _chosen(config: Config, label: str, key: Key, path: Key) -> tuple[Any, dict[str, Any]]:
    wanted = [getattr(config, part) for part in MADE_ALIKE]
    known = tuned_configs()
    fitting = [one for one in known.values() if [getattr(one, p) for p in MADE_ALIKE] == wanted]
    if not fitting:
        there = ", ".join(known) or "nothing"
        told = f"nothing is tuned for this benchmark, scenario and model; there is {there}"
        raise AtKeyError(path, told)
    methods, name, dotted = fitting[0].methods, config.methods[label].method, ".".join(key)
    same = {k: one for k, one in methods.items() if one.method == name and one.tuned is not None}
    for options in ([same[label]] if label in same else []) + list(same.values()):
        if dotted in options.tuned.keys:
            # Where the config as it was is the best, the method has the rate that all share.
            shared = key[0] == "train" and key[1] not in options.train.given()
            found: Any = fitting[0] if shared else options
            for part in key:
                found = getattr(found, part)
            return found, options.tuned.model_dump()
    keys = dict.fromkeys(key for options in same.values() for key in options.tuned.keys)
    there = f"{did_you_mean(dotted, keys)}; chosen: {', '.join(keys)}" if keys else ""
    raise AtKeyError(path, f"no {dotted} was chosen for {name}{there}")


@cache
def tuned_configs() -> dict[str, Config]:
    """The tuned configs of the package, by name."""
    files = shipped(TUNED)
    return {k: Config.model_validate(from_yaml(file.read_bytes())) for k, file in files.items()}
