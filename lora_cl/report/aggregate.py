"""The rows of the tables: many runs to one row per experiment, label and config."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lora_cl.records.folders import Record
from lora_cl.report.grouping import RowRuns, TableRuns, rows, tables
from lora_cl.report.reading import Run, check
from lora_cl.report.references import with_intransigence
from lora_cl.report.statistics import Summary, summarise

MEASURES = (
    "average_accuracy",
    "average_incremental_accuracy",
    "learning_accuracy",
    "forgetting",
    "backward_transfer",
    "forward_transfer",
    "intransigence",
    "last_task_intransigence",
    "average_validation_accuracy",
    "trained_params_per_task",
    "added_params_per_task",
    "trained_share",
    "added_share",
    "total_params",
    "stored_bytes",
    "train_seconds",
    "eval_seconds",
    "peak_memory_bytes",
    "steps_to_95",
    "seconds_to_95",
    "probe_before",
    "probe_lost",
)


@dataclass(frozen=True)
class Problem:
    """A run that gives no numbers: ``status`` is failed, diverged, unfinished, unreadable, ..."""

    seed: int
    status: str
    reason: str | None


@dataclass(frozen=True)
class RoutingSummary:
    """Accuracy with the router is the row's own; here that with the true task id, and how often
    the router finds it, both averaged over all tasks after the last one."""

    router: str
    oracle: Summary
    router_accuracy: Summary


@dataclass(frozen=True)
class Row:
    """All seeds of one method under one config.

    ``label`` names the row: where a label has several configs, what differs is part of it, as in
    ``lora [rank=4]``. ``options`` and ``content`` are what its runs have in common, by dotted key.
    ``seeds`` are the finished ones, ``problems`` the runs without numbers, ``missing`` the seeds
    that other rows of the table have. ``measures`` and ``by_seed`` go by the names in MEASURES.
    ``accuracy_matrix_mean`` is None where not every seed measured an entry. ``differs`` is what
    the method says that it does otherwise than its neighbours, besides its options. ``runs`` are
    all of the row's, one a seed.
    """

    experiment: str
    label: str
    method: str
    scenario: str
    benchmark: str
    config_hash: str | None
    options: dict[str, Any]
    content: dict[str, str]
    needs_task_id: bool | None
    isolated: bool | None
    classifier: str | None
    seeds: tuple[int, ...]
    problems: tuple[Problem, ...]
    missing: tuple[int, ...]
    accuracy_matrix_mean: list[list[float | None]] | None
    measures: dict[str, Summary]
    by_seed: dict[str, dict[int, float | None]]
    routing: RoutingSummary | None
    details: dict[int, dict[str, Any]]
    differs: dict[str, Any]
    runs: tuple[Run, ...] = ()

    @property
    def complete(self) -> bool:
        return bool(self.seeds) and not self.problems and not self.missing

    @property
    def given_task_id(self) -> bool:
        """Whether it was told the task id although its scenario withholds it."""
        return bool(self.needs_task_id) and self.scenario != "task"

    @property
    def all_at_once(self) -> bool:
        """Whether only the end was measured over several tasks: a reference, not a sequence."""
        done = [run for run in self.runs if run.done]
        return bool(done) and all(run.all_at_once for run in done)


@dataclass(frozen=True)
class Comparison:
    """The rows of one table, which are of one experiment, scenario and benchmark.

    ``distinction`` is what tells the table from others of the experiment, ``notes`` what must be
    said below it.
    """

    name: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    distinction: tuple[str, ...] = ()


def aggregate(records: Iterable[Record]) -> list[Comparison]:
    """As ``compared``, from records."""
    return compared(map(check, records))


def compared(runs: Iterable[Run]) -> list[Comparison]:
    """One comparison per experiment, scenario and benchmark; a row per label and config.

    Runs of different configs are never averaged. A seed that is there twice counts once: a
    finished run before any other, then the first.
    """
    return [_comparison(table) for table in tables(runs)]


def _comparison(table: TableRuns) -> Comparison:
    found = rows(with_intransigence(table.runs))
    notes = _newest(found)
    groups: list[tuple[str, list[Run]]] = []
    for row in found:
        kept, extra = _one_per_seed(row.runs)
        if extra:
            told = ", ".join(f"seed {run.seed} ({run.status})" for run in extra)
            notes.append(f"{row.name}: not counted, the seed is there already: {told}")
        groups.append((row.name, _alike(kept)))
    # What cannot be read may not even have its right seed.
    seeds = {run.seed for _, group in groups for run in group if run.status != "unreadable"}
    return Comparison(
        table.experiment,
        tuple(_row(name, members, seeds) for name, members in groups),
        tuple(notes),
        tuple(table.distinction),
    )


def _newest(found: Sequence[RowRuns]) -> list[str]:
    """Of labels with several configs, which was run last."""
    by_label: dict[str, list[RowRuns]] = {}
    for row in found:
        by_label.setdefault(row.runs[0].label, []).append(row)
    newest: dict[str, list[str]] = {}
    for label, several in by_label.items():
        if len(several) > 1:
            last = max(several, key=lambda row: max(map(_written, row.runs)))
            newest.setdefault(last.difference, []).append(label)
    return [
        f"{', '.join(labels)}: several configs; the newest is [{difference}]"
        for difference, labels in newest.items()
    ]


def _written(run: Run) -> float:
    for path in (run.folder / "result.json", run.folder):
        try:
            return path.stat().st_mtime
        except OSError:
            continue
    return 0.0


def _one_per_seed(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """One run a seed, by seed, and the others; a folder that was named twice is no other."""
    chosen: dict[int, Run] = {}
    for run in sorted(runs, key=lambda run: not run.done):
        chosen.setdefault(run.seed, run)
    folders = {run.folder.absolute() for run in chosen.values()}
    extra = [run for run in runs if run.folder.absolute() not in folders]
    return [chosen[seed] for seed in sorted(chosen)], extra


def _alike(runs: list[Run]) -> list[Run]:
    """A finished run that contradicts the others of its config becomes unreadable."""
    described = Counter(_description(run) for run in runs if run.done)
    if len(described) < 2:
        return runs
    usual = described.most_common(1)[0][0]
    reason = "result.json: its method, scenario, benchmark or tasks are not those of its row"
    return [
        replace(run, status="unreadable", reason=reason, matrix=None, confusion=(), values={})
        if run.done and _description(run) != usual
        else run
        for run in runs
    ]


def _description(run: Run) -> tuple[Any, ...]:
    router = run.routing.router if run.routing else None
    tasks = 0 if run.matrix is None else len(run.matrix)
    promises = (run.needs_task_id, run.isolated, run.classifier)
    return (run.method, run.scenario, run.benchmark, *promises, router, tasks)


def _row(label: str, runs: Sequence[Run], seeds: set[int]) -> Row:
    done = [run for run in runs if run.done]
    first = done[0] if done else runs[0]
    by_seed = {name: {run.seed: run.values[name] for run in done} for name in MEASURES}
    return Row(
        experiment=first.experiment,
        label=label,
        method=first.method,
        scenario=first.scenario,
        benchmark=first.benchmark,
        config_hash=first.config_hash,
        options=_common([run.options for run in done or runs]),
        content=_common([run.content for run in done or runs]),
        needs_task_id=first.needs_task_id,
        isolated=first.isolated,
        classifier=first.classifier,
        seeds=tuple(run.seed for run in done),
        problems=tuple(Problem(run.seed, run.status, run.reason) for run in runs if not run.done),
        missing=tuple(sorted(seeds - {run.seed for run in runs})),
        accuracy_matrix_mean=_mean_matrix(done),
        measures={name: summarise(values.values()) for name, values in by_seed.items()},
        by_seed=by_seed,
        routing=_routing(done),
        details={run.seed: run.details for run in done if run.details},
        differs=_common([run.differs for run in done]),
        runs=tuple(runs),
    )


def _common(mappings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The first of the mappings, without what is otherwise in another."""
    first = mappings[0] if mappings else {}
    return {k: v for k, v in first.items() if all(one.get(k) == v for one in mappings)}


def _mean_matrix(runs: Sequence[Run]) -> list[list[float | None]] | None:
    matrices = [run.matrix for run in runs if run.matrix is not None]
    if not matrices:
        return None
    mean = np.mean(matrices, axis=0)
    return [[None if np.isnan(x) else float(x) for x in row] for row in mean]


def _routing(runs: Sequence[Run]) -> RoutingSummary | None:
    known = [run.routing for run in runs if run.routing]
    if not known:
        return None
    return RoutingSummary(
        router=known[0].router,
        oracle=summarise(routing.oracle for routing in known),
        router_accuracy=summarise(routing.router_accuracy for routing in known),
    )
