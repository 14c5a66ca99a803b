"""What a page says of one comparison, as plain values for its template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from lora_cl.records.events import LATEST
from lora_cl.report import layout
from lora_cl.report.aggregate import Comparison, Row
from lora_cl.report.baseline import to_the_best
from lora_cl.report.columns import COLUMNS, Column
from lora_cl.report.figures import Plot, overview, row_plots
from lora_cl.report.figures.drawing import inline_svg
from lora_cl.report.keys import short_checksum, shown
from lora_cl.report.reading import Run
from lora_cl.report.story import story
from lora_cl.text import NOTHING, duration, one_line, percent

MOST_DRAWN = 12
"""Rows with plots of their own; the best of more."""
MOST_VALUES = 12

ACCURACY = "average_accuracy"
TABLE = (
    "average_accuracy",
    "interval",
    "forgetting",
    "backward_transfer",
    "learning_accuracy",
    "n_seeds",
    *layout.COSTS,
)


@dataclass(frozen=True)
class Drawn:
    """A plot as markup of ours, with text that is still to be escaped."""

    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class RowPlots:
    label: str
    plots: tuple[Drawn, ...]


@dataclass(frozen=True)
class Lost:
    """A run without numbers."""

    label: str
    seed: str
    status: str
    reason: str


@dataclass(frozen=True)
class Section:
    anchor: str
    title: str
    story: tuple[str, ...]
    table: layout.Block
    routing: layout.Block | None
    notes: tuple[str, ...]
    differences: tuple[str, ...]
    plots: tuple[Drawn, ...]
    rows: tuple[RowPlots, ...]
    row_captions: tuple[tuple[str, str], ...]
    not_drawn: int
    lost: tuple[Lost, ...]
    protocol: tuple[tuple[str, str], ...]
    own_options: tuple[tuple[str, str], ...]
    provenance: tuple[tuple[str, str], ...]


def section(comparison: Comparison, number: int) -> Section:
    """Everything that the page says of the comparison, which is its ``number``-th."""
    rows = comparison.rows
    drawn = _drawn_rows(rows)
    return Section(
        anchor=f"table-{number}",
        title=layout.title(comparison),
        story=tuple(story(comparison)),
        table=layout.blocks(rows, [_column(name) for name in TABLE])[0],
        routing=layout.routing_block(rows),
        notes=tuple(layout.explanations(comparison)) + tuple(map(one_line, comparison.notes)),
        differences=tuple(to_the_best(rows)),
        plots=tuple(map(_drawn, overview(comparison))),
        rows=tuple(RowPlots(one_line(row.label), tuple(map(_drawn, p))) for row, p in drawn),
        row_captions=tuple({plot.what: plot.caption for _, p in drawn for plot in p}.items()),
        not_drawn=sum(bool(row.seeds) for row in rows) - len(drawn),
        lost=tuple(_lost(rows)),
        protocol=tuple(_protocol(rows)),
        own_options=tuple(_own_options(rows)),
        provenance=tuple(_provenance([run for row in rows for run in row.runs])),
    )


def _column(name: str) -> Column:
    if name != "interval":
        return COLUMNS[name]
    return Column(name, "95 % interval of the mean", _interval, lambda row: None)


def _interval(row: Row) -> str:
    summary = row.measures[ACCURACY]
    if summary.mean is None or summary.ci95 is None:
        return NOTHING
    return f"{percent(summary.mean - summary.ci95)} to {percent(summary.mean + summary.ci95)}"


def _drawn(plot: Plot) -> Drawn:
    return Drawn(plot.title, plot.caption, inline_svg(plot))


def _drawn_rows(rows: Sequence[Row]) -> list[tuple[Row, list[Plot]]]:
    """The best rows in the order of the table, with their plots."""
    done = [row for row in rows if row.measures[ACCURACY].mean is not None]
    best = sorted(done, key=lambda row: -(row.measures[ACCURACY].mean or 0.0))[:MOST_DRAWN]
    kept = {row.label for row in best}
    return [(row, row_plots(row)) for row in done if row.label in kept]


def _lost(rows: Sequence[Row]) -> list[Lost]:
    found = []
    for row in rows:
        for problem in row.problems:
            seed = str(problem.seed) if problem.seed >= 0 else "?"
            reason = one_line(problem.reason or "")
            found.append(Lost(one_line(row.label), seed, one_line(problem.status), reason))
        found += [Lost(one_line(row.label), str(seed), "missing", "") for seed in row.missing]
    return found


def _protocol(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """The options that all rows share, by dotted key."""
    made = [row.options for row in rows if row.options]
    if not made:
        return []
    return [
        (one_line(key), shown(value))
        for key, value in made[0].items()
        if not key.startswith("method.") and key != "method"
        if all(key in one and one[key] == value for one in made)
    ]


def _own_options(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Of each row, its method and the options that not all rows share."""
    shared = dict(_protocol(rows))
    found = []
    for row in rows:
        own = {k: v for k, v in row.options.items() if one_line(k) not in shared and k != "method"}
        told = [f"{one_line(k.removeprefix('method.'))}: {shown(v)}" for k, v in own.items()]
        found.append((one_line(row.label), ", ".join([one_line(row.method), *told])))
    return found


def _provenance(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """What the runs were made with: each thing with every value it had."""
    done = [run for run in runs if run.provenance]
    values: dict[str, dict[str, None]] = {}
    for run in done:
        for key, value in _flat(run.provenance).items():
            values.setdefault(key, {})[value] = None
        for key, text in run.content.items():
            values.setdefault(f"content: {one_line(key)}", {})[short_checksum(text)] = None
    return _when(done) + [(key, _listed(list(several))) for key, several in values.items()]


def _listed(values: Sequence[str]) -> str:
    more = ", …" if len(values) > MOST_VALUES else ""
    return ", ".join(values[:MOST_VALUES]) + more


def _flat(provenance: Mapping[str, Any]) -> dict[str, str]:
    """The parts that tell of machine and software, one level deep."""
    found: dict[str, str] = {}
    for key, value in provenance.items():
        if key in ("started", "seconds", "sessions", "data"):
            continue
        inner = value if isinstance(value, Mapping) else {"": value}
        for name, item in inner.items():
            found[one_line(f"{key} {name}".strip())] = one_line(shown(item))
    return found


def _when(runs: Sequence[Run]) -> list[tuple[str, str]]:
    started = _numbers(runs, "started")
    seconds = _numbers(runs, "seconds")
    found = [("runs", str(len(runs)))]
    if started:
        days = [
            datetime.fromtimestamp(moment, tz=timezone.utc).strftime("%Y-%m-%d %H:%M")
            for moment in (min(started), max(started))
        ]
        found.append(("started", " to ".join(dict.fromkeys(days)) + " UTC"))
    if seconds:
        found.append(("seconds of all runs", duration(sum(seconds))))
    return found


def _numbers(runs: Sequence[Run], name: str) -> list[float]:
    """What the runs say of ``name``, where that is a number of seconds."""
    values = [run.provenance.get(name) for run in runs]
    return [float(v) for v in values if isinstance(v, int | float) and 0 <= v <= LATEST]
