"""The columns that a comparison can show and be sorted by: names, headers, and what is in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lora_cl.report.aggregate import Row
from lora_cl.report.keys import CONTENT, by_size, resolve, short_checksum, short_name, shown
from lora_cl.report.statistics import Summary
from lora_cl.text import NOTHING, count, duration, one_line, percent, size


@dataclass(frozen=True)
class Column:
    """``name`` is that in JSON and CSV, ``header`` is for people.

    ``better`` is 1 where more is better, -1 where less is, 0 where neither; ``starred`` says
    whether the best is marked. Forgetting and transfer are not: who learned little has little to
    forget.
    """

    name: str
    header: str
    text: Callable[[Row], str]
    value: Callable[[Row], Any]
    better: int = 0
    starred: bool = False


def mean_std(summary: Summary) -> str:
    """``98.77 ± 0.12`` in %; without the deviation of a single seed."""
    if summary.mean is None:
        return NOTHING
    if summary.std is None:
        return percent(summary.mean)
    return f"{percent(summary.mean)} ± {percent(summary.std)}"


def seeds(row: Row) -> str:
    wanted = len(row.seeds) + len(row.problems) + len(row.missing)
    return str(wanted) if wanted == len(row.seeds) else f"{len(row.seeds)} of {wanted}"


def _summarised(
    name: str,
    header: str,
    better: int,
    form: Callable[[Summary], str],
    of: Callable[[Row], Summary | None],
) -> Column:
    def text(row: Row) -> str:
        summary = of(row)
        return NOTHING if summary is None or summary.mean is None else form(summary)

    def value(row: Row) -> float | None:
        summary = of(row)
        return None if summary is None else summary.mean

    return Column(name, header, text, value, better, name.endswith("accuracy") and better > 0)


def _measure(name: str, header: str, better: int, form: Callable[[Summary], str]) -> Column:
    return _summarised(name, header, better, form, lambda row: row.measures[name])


def _routed(name: str, header: str, of: Callable[[Any], Summary]) -> Column:
    def summary(row: Row) -> Summary | None:
        return of(row.routing) if row.routing else None

    # Neither is an accuracy that methods compete in.
    return _summarised(name, header, 0, mean_std, summary)


def _mean(form: Callable[[float], str]) -> Callable[[Summary], str]:
    return lambda summary: form(summary.mean or 0.0)


def _share(fraction: float) -> str:
    return f"{percent(fraction)} %"


def _fact(name: str) -> Column:
    return Column(name, name, lambda row: shown(getattr(row, name)), lambda row: getattr(row, name))


_ALL = (
    _measure("average_accuracy", "average accuracy ↑", 1, mean_std),
    _measure("average_incremental_accuracy", "average incremental accuracy ↑", 1, mean_std),
    _measure("learning_accuracy", "learning accuracy ↑", 1, mean_std),
    _measure("forgetting", "forgetting ↓", -1, mean_std),
    _measure("backward_transfer", "backward transfer ↑", 1, mean_std),
    _measure("forward_transfer", "forward transfer ↑", 1, mean_std),
    _measure("intransigence", "intransigence ↓", -1, mean_std),
    _measure("last_task_intransigence", "intransigence of the last task ↓", -1, mean_std),
    _measure("average_validation_accuracy", "average validation accuracy ↑", 1, mean_std),
    _measure("trained_params_per_task", "trained per task", -1, _mean(count)),
    _measure("added_params_per_task", "added per task", -1, _mean(count)),
    _measure("trained_share", "trained per task, of the base", -1, _mean(_share)),
    _measure("added_share", "added per task, of the base", -1, _mean(_share)),
    _measure("total_params", "total params", -1, _mean(count)),
    _measure("stored_bytes", "stored", -1, _mean(size)),
    _measure("train_seconds", "training time", -1, _mean(duration)),
    _measure("eval_seconds", "evaluation time", -1, _mean(duration)),
    _measure("peak_memory_bytes", "peak memory", -1, _mean(size)),
    _measure("steps_to_95", "steps to 95 %", -1, _mean(lambda steps: f"{steps:.3g}")),
    _measure("seconds_to_95", "time to 95 %", -1, _mean(duration)),
    _measure("probe_before", "knew of other classes", 0, mean_std),
    _measure("probe_lost", "lost of other classes ↓", -1, mean_std),
    Column("n_seeds", "n", seeds, lambda row: len(row.seeds), 1),
    Column(
        "router",
        "router",
        lambda row: one_line(row.routing.router) if row.routing else NOTHING,
        lambda row: row.routing.router if row.routing else None,
    ),
    _routed("oracle", "accuracy with the oracle", lambda routing: routing.oracle),
    _routed("router_accuracy", "accuracy of the router", lambda routing: routing.router_accuracy),
    *map(_fact, ("label", "method", "scenario", "benchmark", "needs_task_id", "isolated")),
    *map(_fact, ("classifier", "config_hash")),
)
COLUMNS = {column.name: column for column in _ALL}


def find_column(option: str, name: str, rows: Sequence[Row]) -> Column:
    """The column called ``name``: a measure, a fact, or a key of the rows' configs.

    A key may be shortened where it is clear. Raises ConfigError, in which ``option`` is named,
    for what is not there.
    """
    keys = dict.fromkeys(key for row in rows for key in row.options)
    parts = dict.fromkeys(f"{CONTENT}{key}" for row in rows for key in row.content)
    key = resolve(option, name, [*COLUMNS, *keys, *parts])
    if key in COLUMNS:
        return COLUMNS[key]
    if key in parts:
        part = key.removeprefix(CONTENT)
        return Column(
            key,
            part,
            lambda row: short_checksum(row.content.get(part, NOTHING)),
            lambda row: row.content.get(part),
        )
    return Column(
        key,
        short_name(key, keys),
        lambda row: shown(row.options.get(key)),
        lambda row: row.options.get(key),
    )


def in_order(rows: Sequence[Row], column: Column, turned: bool) -> list[Row]:
    """The best rows first, or, where none is better, the smallest; ``turned`` the other way round.

    Rows that have nothing there are last.
    """
    known = [row for row in rows if column.value(row) is not None]
    falling = (column.better > 0) != turned
    ordered = sorted(known, key=lambda row: by_size(column.value(row)), reverse=falling)
    return ordered + [row for row in rows if column.value(row) is None]
