"""One record, checked: a result file can hold anything, and nothing wrong may become a number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import lora_cl.records.metrics as metrics
from lora_cl.records.confusion import Counts, confusion
from lora_cl.records.events import logged_config
from lora_cl.records.folders import Record
from lora_cl.records.plain_json import LARGEST
from lora_cl.records.results import SCHEMA_VERSION
from lora_cl.report.keys import options_of
from lora_cl.text import one_line

COSTS = (
    "trained_params_per_task",
    "added_params_per_task",
    "total_params",
    "stored_bytes",
    "train_seconds",
    "eval_seconds",
    "peak_memory_bytes",
    "steps_to_95",
    "seconds_to_95",
)
STATUSES = ("done", "failed", "diverged", "running", "interrupted", "unfinished", "unreadable")


@dataclass(frozen=True)
class Routing:
    """Who chose the task at test time, and how well.

    ``oracle`` and ``router_accuracy`` are averages over all tasks after the last one: the accuracy
    with the true task id, and how often the router finds that id. None where not measured.
    """

    router: str
    oracle: float | None
    router_accuracy: float | None


@dataclass(frozen=True)
class Run:
    """A record whose every part was checked; anything wrong with it is ``reason``.

    ``matrix`` (T, T) holds fractions, NaN where not measured; ``values`` the measures and costs.
    Both are there for a run that is done, and for no other. ``validation`` (T, T) is of samples
    held out, ``untrained`` (T,) before any training; None where there is none. ``confusion`` is as
    ``records.confusion`` has it, of those that measured it; ``tasks`` are the names of its classes,
    task by task. ``options`` are the config by dotted key, ``content`` what else makes the result,
    ``position`` the label's place in the config; ``details`` and ``provenance`` are as on record.
    """

    folder: Path
    experiment: str
    label: str
    method: str
    scenario: str
    benchmark: str
    seed: int
    status: str
    reason: str | None = None
    config_hash: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    content: dict[str, str] = field(default_factory=dict)
    position: int | None = None
    needs_task_id: bool | None = None
    isolated: bool | None = None
    classifier: str | None = None
    matrix: metrics.Array | None = None
    validation: metrics.Array | None = None
    untrained: metrics.Array | None = None
    confusion: tuple[Counts, ...] = ()
    tasks: tuple[tuple[str, ...], ...] = ()
    values: dict[str, float | None] = field(default_factory=dict)
    routing: Routing | None = None
    details: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return self.status == "done"

    @property
    def all_at_once(self) -> bool:
        """Whether only the end was measured over several tasks: a reference, not a sequence."""
        return (
            self.matrix is not None
            and len(self.matrix) > 1
            and bool(np.isnan(self.matrix[:-1]).all())
        )

    @property
    def differs(self) -> dict[str, Any]:
        """What the method says that it does otherwise than others, besides its options."""
        value = self.details.get("differs")
        return value if isinstance(value, dict) else {}


class _MalformedError(ValueError):
    """What is wrong with a result file, in a few words."""


def check(record: Record) -> Run:
    """The record as a run; one that is not what it should be is a run with status unreadable."""
    run = Run(
        folder=record.folder,
        experiment=record.experiment,
        label=record.label,
        method=record.method,
        scenario=record.scenario,
        benchmark=record.benchmark,
        seed=record.seed,
        status=record.status,
    )
    result = record.result
    try:
        if run.status not in STATUSES:
            raise _MalformedError(f"unknown status {run.status!r}")
        run = _made_of(run, result)
        if run.status in ("unreadable", "unfinished"):
            return replace(run, reason=_reason(result), config_hash=_text(result, "config_hash"))
        version = result.get("schema_version")
        if type(version) is not int or version != SCHEMA_VERSION:
            raise _MalformedError(f"schema_version is {version!r}, not {SCHEMA_VERSION}")
        run = replace(
            run,
            config_hash=_text(result, "config_hash"),
            needs_task_id=_bool(result, "needs_task_id"),
            isolated=_bool(result, "isolated"),
            classifier=_text(result, "classifier"),
            reason=_reason(result),
            provenance=_mapping(result, "provenance"),
        )
        return _with_numbers(run, result) if run.done else run
    except (ValueError, OverflowError, RecursionError) as error:
        return replace(run, status="unreadable", reason=f"result.json: {one_line(error)}")


def _made_of(run: Run, result: dict[str, Any]) -> Run:
    """The run with what it was made of; one without a record is known by its log."""
    config = _mapping(result, "config")
    if not config and run.status in ("unfinished", "unreadable"):
        config = logged_config(run.folder)
    content = _mapping(result, "content")
    if not all(isinstance(value, str) for value in content.values()):
        raise _MalformedError("content holds something that is not text")
    position = result.get("position")
    if position is not None and (type(position) is not int or position < 0):
        raise _MalformedError(f"position is {position!r}, not a whole number from 0 on")
    options = options_of(config)
    scenario, benchmark = (options.get(name) for name in ("scenario", "benchmark"))
    return replace(
        run,
        options=options,
        content=content,
        position=position,
        method=run.method or _word(options.get("method")),
        scenario=run.scenario or _word(scenario),
        benchmark=run.benchmark or _word(benchmark),
    )


def _word(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _with_numbers(run: Run, result: dict[str, Any]) -> Run:
    if run.needs_task_id is None or run.isolated is None:
        raise _MalformedError("needs_task_id and isolated are missing")
    tasks = result.get("n_tasks")
    if type(tasks) is not int or tasks < 1:
        raise _MalformedError(f"n_tasks is {tasks!r}, not a positive whole number")
    matrix = _matrix(result.get("accuracy_matrix"), tasks, "accuracy_matrix")
    untrained = result.get("untrained_accuracy")
    if untrained is not None:
        untrained = _fractions([untrained], tasks, "untrained_accuracy")[0]
    cost = _mapping(result, "cost")
    values = metrics.measures(matrix, untrained) | {name: _amount(cost, name) for name in COSTS}
    values |= _shares(values, _amount(cost, "base_params") if "base_params" in cost else None)
    validation = result.get("validation_matrix")
    if validation is not None:
        validation = _matrix(validation, tasks, "validation_matrix")
    values["average_validation_accuracy"] = (
        None if validation is None else metrics.average_accuracy(validation)
    )
    values |= _probed(result.get("probe"))
    answered = confusion(result)
    return replace(
        run,
        matrix=matrix,
        validation=validation,
        untrained=untrained,
        confusion=tuple(answered or ()),
        tasks=_class_names(result) if answered else (),
        values=values,
        routing=_routing(result.get("routing"), tasks),
        details=_mapping(result, "details"),
    )


def _probed(probe: Any) -> dict[str, float | None]:
    """What the base knew of classes that no task has, and what was lost of it in accuracy."""
    if probe is None:
        return {"probe_before": None, "probe_lost": None}
    if not isinstance(probe, dict):
        raise _MalformedError("probe is no mapping")
    ((before, after),) = _fractions(
        [[probe.get("before"), probe.get("after")]], 2, "probe"
    ).tolist()
    if math.isnan(before + after):
        raise _MalformedError("probe lacks a number")
    return {"probe_before": before, "probe_lost": before - after}


def _class_names(result: dict[str, Any]) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(one_line(name) for name in task["classes"]) for task in result["tasks"])


def _matrix(value: Any, tasks: int, name: str) -> metrics.Array:
    if not isinstance(value, list) or len(value) != tasks:
        raise _MalformedError(f"{name} does not have {tasks} rows")
    return _fractions(value, tasks, name)


def _fractions(rows: list[Any], tasks: int, name: str) -> metrics.Array:
    empty = 0
    for row in rows:
        if not isinstance(row, list) or len(row) != tasks:
            raise _MalformedError(f"{name} does not have {tasks} numbers in every row")
        if not set(map(type, row)) <= {float, int, type(None)}:
            raise _MalformedError(f"{name} holds something that is neither a number nor null")
        empty += row.count(None)
    array = np.array(rows, dtype=np.float64)
    inside = (array >= 0) & (array <= 1)
    if int(inside.sum()) + empty != array.size:
        raise _MalformedError(f"{name} holds numbers outside 0 to 1")
    return array


def _routing(value: Any, tasks: int) -> Routing | None:
    if value is None:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("router"), str):
        raise _MalformedError("routing does not name its router")
    last = [
        None
        if value.get(name) is None
        else metrics.average_accuracy(_matrix(value[name], tasks, name))
        for name in ("accuracy_matrix_oracle", "router_accuracy")
    ]
    return Routing(value["router"], *last)


def _amount(cost: dict[str, Any], name: str) -> float | None:
    value = cost.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value <= LARGEST:
        raise _MalformedError(f"cost.{name} is {value!r}, not a number from 0 to {LARGEST:.0e}")
    return float(value)


def _mapping(result: dict[str, Any], name: str) -> dict[str, Any]:
    value = result.get(name)
    if value is not None and not isinstance(value, dict):
        raise _MalformedError(f"{name} is not a mapping")
    return value or {}


def _bool(result: dict[str, Any], name: str) -> bool | None:
    value = result.get(name)
    if value is not None and not isinstance(value, bool):
        raise _MalformedError(f"{name} is {value!r}, not true or false")
    return value


def _text(result: dict[str, Any], name: str) -> str | None:
    value = result.get(name)
    if value is not None and not isinstance(value, str):
        raise _MalformedError(f"{name} is {value!r}, not text")
    return value


def _reason(result: dict[str, Any]) -> str | None:
    """What a record says went wrong, with the place; the record may be malformed itself."""
    error = result.get("error")
    if not isinstance(error, dict):
        return None
    text = one_line(error.get("message") or error.get("kind") or "no message")
    place = ", ".join(
        f"{name} {error[name]}" for name in ("task", "step") if isinstance(error.get(name), int)
    )
    return text if not place or place in text else f"{text} ({place})"


def _shares(values: Mapping[str, float | None], base: float | None) -> dict[str, float | None]:
    """Parameters trained and added per task in units of those of the base, as adapters' papers
    count them. Records of earlier versions do not say how large the base was."""
    found: dict[str, float | None] = {}
    for what in ("trained", "added"):
        number = values[f"{what}_params_per_task"]
        found[f"{what}_share"] = number / base if base and number is not None else None
    return found
