"""What the record of a run says: what it was, what was measured, what it was done with."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from lora_cl.benchmarks import Benchmark
from lora_cl.benchmarks.recorded import task_names
from lora_cl.config import Config, RunConfig
from lora_cl.errors import LoraClError
from lora_cl.records.confusion import NAME as CONFUSION
from lora_cl.records.events import read_events
from lora_cl.records.metrics import reached
from lora_cl.records.results import SCHEMA_VERSION
from lora_cl.running.arithmetic import arithmetic
from lora_cl.running.ledger import Ledger
from lora_cl.running.machine import MemoryPeak, describe, versions
from lora_cl.running.session import Session
from lora_cl.text import one_line

EXPECTED = (LoraClError, OSError, MemoryError)
"""Errors whose message says enough; others are recorded with a traceback."""


def describe_error(error: BaseException, task: int | None, step: int | None) -> dict[str, Any]:
    """What stopped a run, in one line, and where; the kind is part of it where it says more."""
    text = one_line(error, limit=500)
    kind = type(error).__name__
    if not text or not isinstance(error, EXPECTED):
        text = f"{kind}: {text}" if text else kind
    return {"kind": kind, "message": text, "task": task, "step": step}


def identity(run: RunConfig, config: Config, status: str) -> dict[str, Any]:
    """What was run, in the words of the table."""
    (options,) = config.methods.values()
    return {
        "schema_version": SCHEMA_VERSION,
        "status": status,
        "experiment": run.experiment,
        "label": run.label,
        "method": options.method,
        "scenario": config.scenario,
        "benchmark": config.benchmark.name,
        "seed": run.seed,
        "hash": run.run_hash,
        "config_hash": run.config_hash,
        "position": run.position,
        "config": run.resolved,
        "content": run.content,
    }


def measured(session: Session | None, peak: MemoryPeak | None) -> dict[str, Any]:
    """The numbers of a run, as far as it came."""
    if session is None:
        return {
            "n_tasks": None,
            "tasks": None,
            "input": None,
            "needs_task_id": None,
            "isolated": None,
            "classifier": None,
            "accuracy_matrix": None,
            CONFUSION: None,
            "untrained_accuracy": None,
            "validation_matrix": None,
            "learning_curves": None,
            "cost": {},
            "routing": None,
            "details": {},
        }
    ledger, method = session.state.ledger, session.method
    n_tasks = session.benchmark.n_tasks

    def whole(rows: list[list[float | None]]) -> list[list[float | None]]:
        padded = [row + [None] * (n_tasks - len(row)) for row in rows]
        return padded + [[None] * n_tasks] * (n_tasks - len(rows))

    routing = None
    if method.router != "oracle":
        routing = {
            "router": method.router,
            "accuracy_matrix_oracle": whole(ledger.accuracy),
            "router_accuracy": whole(ledger.router_accuracy),
        }
    return {
        "n_tasks": n_tasks,
        "tasks": [asdict(names) for names in task_names(session.benchmark)],
        "input": session.input,
        "needs_task_id": method.needs_task_id,
        "isolated": method.isolated,
        "classifier": method.classifier,
        "accuracy_matrix": whole(ledger.routed if routing else ledger.accuracy),
        CONFUSION: _confusion(ledger, session.benchmark),
        "untrained_accuracy": ledger.untrained,
        "validation_matrix": whole(ledger.validation) if session.benchmark.validation else None,
        "learning_curves": _curves(session) if session.config.learning_curve else None,
        "cost": cost(session) | {"peak_memory_bytes": peak.bytes() if peak else None},
        "routing": routing,
        "details": method.chosen | method.details(),
    }


def _confusion(ledger: Ledger, benchmark: Benchmark) -> list[list[list[int]]] | None:
    """Of the evaluation after the last task: one matrix where classes of all tasks are answered,
    else one for each task. Null before that, and where it would be too large."""
    tasks = range(benchmark.n_tasks)
    if len(ledger.accuracy) < len(tasks) or not all(task in ledger.confusion for task in tasks):
        return None
    found = [ledger.confusion[task] for task in tasks]
    return [list(chain(*found))] if benchmark.scenario == "class" else found


def cost(session: Session) -> dict[str, float | int | None]:
    """What the run cost. Null where nothing was learned.

    Parameters added per task: the mean growth of the total from the second task on; with a
    single task, what it added to the backbone.
    """
    ledger, method = session.state.ledger, session.method
    totals, trained = ledger.total_parameters, ledger.trained_parameters
    added: float | None = None
    if len(totals) > 1:
        added = (totals[-1] - totals[0]) / (len(totals) - 1)
    elif totals:
        added = float(totals[0] - session.base_parameters)
    return {
        "trained_params_per_task": sum(trained) / len(trained) if trained else None,
        "added_params_per_task": added,
        "base_params": session.base_parameters,
        "total_params": totals[-1] if totals else None,
        "stored_bytes": method.stored_bytes() if totals else None,
        "train_seconds": ledger.train_seconds,
        "eval_seconds": ledger.eval_seconds,
        **_quickness(ledger),
    }


def _quickness(ledger: Ledger) -> dict[str, float | None]:
    """Steps and seconds of training until a task first has 95 % of the accuracy that it ends with,
    on samples held out; the mean over tasks. Null where no curve was measured."""
    steps, seconds = [], []
    for curve in ledger.curves.values():
        if point := reached(curve):
            steps.append(point[0] - curve[0][0])
            seconds.append(point[1] - curve[0][1])
    if not steps:
        return {"steps_to_95": None, "seconds_to_95": None}
    return {"steps_to_95": sum(steps) / len(steps), "seconds_to_95": sum(seconds) / len(seconds)}


def _curves(session: Session) -> list[list[list[float]] | None]:
    """Per task [step, accuracy on samples held out]; null for a task that was not measured."""
    found = session.state.ledger.curves
    tasks = range(session.benchmark.n_tasks)
    return [
        [[step, accuracy] for step, _, accuracy in found[task]] if task in found else None
        for task in tasks
    ]


def provenance(run: RunConfig, device: torch.device, folder: Path) -> dict[str, Any]:
    """What a run was done with, when, and for how long."""
    data = {key: value for key, value in run.content.items() if value.startswith("sha256:")}
    return {
        "versions": versions(),
        **describe(device),
        "threads": run.resolved["threads"],
        "arithmetic": arithmetic(),
        "data": data,
        **_sessions(folder),
    }


def _sessions(folder: Path) -> dict[str, Any]:
    """When a run was first started, the seconds it took, in how many sessions, and what it was
    computed with that was not the same in all of them, and how a cluster lost it.

    The seconds hold those in which other runs had their turn. Of a session that was killed counts
    what its log tells.
    """
    starts: list[float] = []
    changed: set[str] = set()
    lost: list[str] = []
    before: Mapping[str, Any] | None = None
    seconds = latest = 0.0
    for event, _ in read_events(folder):
        moment = event.get("time")
        if event["event"] == "lost":
            lost.append(one_line(event.get("message"), 160))
        if isinstance(moment, int | float):
            if event["event"] == "run_started":
                seconds += latest - starts[-1] if starts else 0.0
                starts.append(float(moment))
                now_with = event.get("computed_with")
                if isinstance(now_with, Mapping):
                    before = now_with if before is None else before
                    names = before.keys() | now_with.keys()
                    changed |= {name for name in names if before.get(name) != now_with.get(name)}
            latest = float(moment)
    now = time.time()
    started = starts[0] if starts else now
    seconds += now - starts[-1] if starts else 0.0
    return {
        "started": started,
        "seconds": max(0.0, seconds),
        "sessions": len(starts),
        "changed_between_sessions": sorted(changed),
        **({"lost": lost} if lost else {}),
    }
