"""Where two runs part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from lora_cl.errors import ResultsError
from lora_cl.records.events import read_events
from lora_cl.records.folders import CONFIG
from lora_cl.records.results import RESULT, read_result
from lora_cl.text import one_line

ENVIRONMENT = ("versions", "device", "device_name", "system", "threads")
MAX_CONFIG_BYTES = 65_536
_NOTHING = object()


def differences(run_a: Path, run_b: Path) -> list[str]:
    """The first difference of each kind, in the order in which one can cause the next.

    Config key, versions and device, data, the logged loss, how the run ended, the accuracy
    matrix. Empty if two runs are equal but for time. Raises ResultsError if one is not readable.
    """
    a, b = _Run(run_a), _Run(run_b)
    kinds = [
        _first("config", a.config, b.config) if a.hash is None or a.hash != b.hash else None,
        _first("environment", a.environment, b.environment),
        _first("data", a.data, b.data),
        _losses(a, b),
        _first("", {"status": a.status}, {"status": b.status}),
        _matrices(a.matrix, b.matrix),
    ]
    return [kind for kind in kinds if kind is not None]


class _Run:
    """What is compared of a run folder."""

    def __init__(self, folder: Path) -> None:
        if not (folder / CONFIG).is_file() and not (folder / RESULT).is_file():
            raise ResultsError(
                f"{folder}: is not a run folder (RESULTS/EXPERIMENT/LABEL/SEED-HASH)"
            )
        result = read_result(folder) or {}
        provenance = _mapping(result.get("provenance"))
        self.hash = result.get("hash")
        config = _mapping(result.get("config")) or read_config(folder)
        self.config = _flat({**config, "methods": _labelled(config.get("methods"))})
        self.environment = _flat({k: v for k, v in provenance.items() if k in ENVIRONMENT})
        self.data = _flat(_mapping(provenance.get("data")))
        self.status = result.get("status", "unfinished")
        self.matrix = result.get("accuracy_matrix")
        # What was done again after a crash was logged again: the last word counts.
        self.losses = {
            (event["task"], event["fit"], event["epoch"]): event["loss"]
            for event, _ in read_events(folder)
            if event["event"] == "epoch"
            and all(type(event.get(name)) is int for name in ("task", "fit", "epoch"))
            and type(event.get("loss")) in (int, float)
        }


def read_config(folder: Path) -> dict[str, Any]:
    """The config file of a run folder. Raises ResultsError if it is not one."""
    path = folder / CONFIG
    try:
        with path.open("rb") as file:
            value = yaml.safe_load(file.read(MAX_CONFIG_BYTES).decode())
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError, yaml.YAMLError):
        raise ResultsError(f"{path}: is damaged: not YAML") from None
    if not isinstance(value, dict):
        raise ResultsError(f"{path}: is damaged: not the config of a run")
    return value


def _labelled(methods: Any) -> Any:
    """A run has one method, under its label: as options beside each other."""
    if not isinstance(methods, dict) or len(methods) != 1:
        return methods
    ((label, options),) = methods.items()
    return {"label": label, **_mapping(options)}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping with dotted keys."""
    items: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(value, Mapping) and value:
        items = iter(value.items())
    elif isinstance(value, list) and value:
        items = iter(enumerate(value))
    else:
        return {prefix: value} if prefix else {}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _first(kind: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> str | None:
    """The first key, in the order of the files, whose values differ."""
    for key in [*a, *(key for key in b if key not in a)]:
        ours, theirs = a.get(key, _NOTHING), b.get(key, _NOTHING)
        if ours is not theirs and (type(ours) is not type(theirs) or ours != theirs):
            name = f"{kind}: {one_line(key)}" if kind else key
            return f"{name}: {_shown(ours)} / {_shown(theirs)}"
    return None


def _losses(a: _Run, b: _Run) -> str | None:
    """The first task, fit and epoch where both logged a loss, and not the same."""
    for place in sorted(a.losses.keys() & b.losses.keys()):
        ours, theirs = a.losses[place], b.losses[place]
        if ours != theirs:
            task, fit, epoch = place
            where = (
                f"task {task}, epoch {epoch}"
                if fit == 0
                else f"task {task}, fit {fit}, epoch {epoch}"
            )
            return f"loss: {where}: {ours!r} / {theirs!r}"
    last_a, last_b = max(a.losses, default=None), max(b.losses, default=None)
    if last_a != last_b:
        return f"loss: the last one logged is of {_place(last_a)} / {_place(last_b)}"
    return None


def _place(place: tuple[int, int, int] | None) -> str:
    return "nothing" if place is None else f"task {place[0]}, fit {place[1]}, epoch {place[2]}"


def _matrices(a: Any, b: Any) -> str | None:
    """The first entry that differs."""
    entries = [
        {
            f"after task {key.replace('.', ', on task ')}": value
            for key, value in _flat(matrix).items()
        }
        for matrix in (a, b)
    ]
    return _first("accuracy matrix", *entries)


def _shown(value: Any) -> str:
    return "nothing" if value is _NOTHING else one_line(repr(value), limit=80)
