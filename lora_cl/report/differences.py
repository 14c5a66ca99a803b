"""Where two runs part."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_cl.errors import ResultsError
from lora_cl.records.events import read_events
from lora_cl.records.folders import is_run
from lora_cl.records.results import read_own_result
from lora_cl.text import one_line

ENVIRONMENT = (
    *("versions", "device", "device_name", "system", "threads", "arithmetic"),
    "changed_between_sessions",
)
MEASURED = {
    "untrained_accuracy": "accuracy before learning",
    "accuracy_matrix": "accuracy matrix",
    "confusion_matrices": "confusion",
    "validation_matrix": "validation matrix",
}
MOST_VALUES = 20_000
"""No run has so many options, versions or data sets."""
_NOTHING = object()


def differences(run_a: Path, run_b: Path) -> list[str]:
    """The first difference of each kind, in the order in which one can cause the next.

    Config key, versions and device, data, the logged loss, how the run ended, what was measured of
    it. Empty if two runs are equal but for time. Raises ResultsError if one is not readable.
    """
    a, b = _Run(run_a), _Run(run_b)
    kinds = [
        _first("config", a.config, b.config) if a.hash is None or a.hash != b.hash else None,
        _first("environment", a.environment, b.environment),
        _first("data", a.data, b.data),
        _losses(a, b),
        _first("", {"status": a.status}, {"status": b.status}),
        *(_first(name, a.measured[key], b.measured[key]) for key, name in MEASURED.items()),
    ]
    return [kind for kind in kinds if kind is not None]


class _Run:
    """What is compared of a run folder."""

    def __init__(self, folder: Path) -> None:
        if not is_run(folder):
            raise ResultsError(
                f"{folder}: is not a run folder (RESULTS/EXPERIMENT/LABEL/SEED-HASH)"
            )
        result = read_own_result(folder) or {}
        provenance = _mapping(result.get("provenance"))
        self.hash = result.get("hash")
        logged = self._read_log(folder)
        config = _mapping(result.get("config")) or logged
        self.config = _flat({**config, "methods": _labelled(config.get("methods"))}, folder)
        environment = {k: v for k, v in provenance.items() if k in ENVIRONMENT and v != []}
        self.environment = _flat(environment, folder)
        self.data = _flat(_mapping(provenance.get("data")), folder)
        self.status = result.get("status", "unfinished")
        self.measured = {key: _entries(result.get(key)) for key in MEASURED}

    def _read_log(self, folder: Path) -> dict[str, Any]:
        """Sets ``losses``; returns the config, which is there before the record is.

        What was done again after a crash was logged again: the last word counts.
        """
        self.losses: dict[tuple[Any, ...], float] = {}
        config: dict[str, Any] = {}
        for event, _ in read_events(folder):
            config = _mapping(event.get("config")) or config
            place = tuple(event.get(name) for name in ("task", "fit", "epoch"))
            whole = event["event"] == "epoch" and all(type(part) is int for part in place)
            if whole and type(event.get("loss")) in (int, float):
                self.losses[place] = event["loss"]
        return config


def _labelled(methods: Any) -> Any:
    """A run has one method, under its label: as options beside each other."""
    if not isinstance(methods, dict) or len(methods) != 1:
        return methods
    ((label, options),) = methods.items()
    return {"label": label, **_mapping(options)}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _flat(value: Any, folder: Path) -> dict[str, Any]:
    """Nested mappings and lists as one mapping with dotted keys, in their order."""
    flat: dict[str, Any] = {}
    waiting = [("", value)]
    while waiting:
        prefix, value = waiting.pop()
        items = [*value.items()] if isinstance(value, dict) else []
        items = [*enumerate(value)] if isinstance(value, list) else items
        if items:
            waiting += [(f"{prefix}.{key}" if prefix else str(key), v) for key, v in items[::-1]]
        elif prefix:
            flat[prefix] = value
        if len(flat) + len(waiting) > MOST_VALUES:
            raise ResultsError(f"{folder}: its record holds more than {MOST_VALUES:,} options")
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


def _place(place: tuple[Any, ...] | None) -> str:
    return "nothing" if place is None else f"task {place[0]}, fit {place[1]}, epoch {place[2]}"


def _entries(measured: Any) -> dict[str, Any]:
    """Matrices, a matrix, or a list of one value per task, by what each value is of."""
    entries: dict[str, Any] = {}
    for i, row in enumerate(measured if isinstance(measured, list) else ()):
        if not isinstance(row, list):
            entries[f"on task {i}"] = row
        elif any(isinstance(value, list) for value in row):
            which = f"matrix {i}, " if len(measured) > 1 else ""
            entries |= {
                f"{which}class {j} taken for {k}": value
                for j, line in enumerate(row)
                for k, value in enumerate(line if isinstance(line, list) else ())
            }
        else:
            entries |= {f"after task {i}, on task {j}": value for j, value in enumerate(row)}
    return entries


def _shown(value: Any) -> str:
    return "nothing" if value is _NOTHING else one_line(repr(value), limit=80)
