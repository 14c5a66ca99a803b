"""Runs to tables and rows: what may stand beside each other, and what may be averaged.

A table is of one experiment, scenario and benchmark, and of the same data; a row of one label and
one config. Runs that differ in a way that decides numbers never meet in a row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from lora_cl.report.keys import Difference, frozen, makes_result
from lora_cl.report.reading import Run
from lora_cl.text import NOTHING

SCENARIOS = ("task", "domain", "class")
DATA = "benchmark"


@dataclass
class RowRuns:
    """The runs of one row, and the name of it: the label, with what differs in brackets."""

    runs: list[Run]
    name: str = ""
    difference: str = ""


@dataclass
class TableRuns:
    """The runs of one table; ``distinction`` is what tells it from others of the experiment."""

    experiment: str
    runs: list[Run]
    distinction: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Place:
    """What a table is of; an empty part is one that is not known."""

    scenario: str
    benchmark: str
    options: tuple[tuple[str, str], ...]
    data: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, run: Run) -> _Place:
        options = {k: v for k, v in makes_result(run.options).items() if k.startswith(f"{DATA}.")}
        data = {k: v for k, v in run.content.items() if k.startswith(f"{DATA}.")}
        return cls(run.scenario, run.benchmark, frozen(options), frozen(data))

    def _parts(self) -> tuple[object, ...]:
        return (self.scenario, self.benchmark, self.options, self.data)

    @property
    def known(self) -> int:
        return sum(map(bool, self._parts()))

    def can_be(self, other: _Place) -> bool:
        """Whether nothing that is known of it contradicts ``other``."""
        pairs = zip(self._parts(), other._parts(), strict=True)
        return all(not ours or ours == theirs for ours, theirs in pairs)


def tables(runs: Iterable[Run]) -> list[TableRuns]:
    """The runs by experiment, in order of appearance, then by scenario, benchmark and data."""
    experiments: dict[str, list[Run]] = {}
    for run in runs:
        experiments.setdefault(run.experiment, []).append(run)
    return [table for name, group in experiments.items() for table in _tables(name, group)]


def _tables(experiment: str, runs: Sequence[Run]) -> list[TableRuns]:
    by_place: dict[_Place, list[Run]] = {}
    for run in runs:
        by_place.setdefault(_Place.of(run), []).append(run)
    # Of a run that was cut off early little is known; with one candidate there is no doubt.
    for place in sorted(by_place, key=lambda place: place.known):
        wider = [p for p in by_place if p.known > place.known and place.can_be(p)]
        if len(wider) == 1:
            by_place[wider[0]] += by_place.pop(place)
    groups = list(by_place.values())
    firsts = [max(group, key=lambda run: _Place.of(run).known) for group in groups]
    options, contents = [run.options for run in firsts], [run.content for run in firsts]
    difference = Difference(options, contents, _keys(runs), DATA)

    def order(index: int) -> tuple[object, ...]:
        scenario = firsts[index].scenario
        known = SCENARIOS.index(scenario) if scenario in SCENARIOS else len(SCENARIOS)
        return (known, scenario, difference.place(index))

    return [
        TableRuns(
            experiment,
            groups[index],
            [text for text in difference.told[index] if not text.startswith(f"{DATA}=")],
        )
        for index in sorted(range(len(groups)), key=order)
    ]


def rows(runs: Sequence[Run]) -> list[RowRuns]:
    """The runs of a table by label and config, in the order of the config that they are from.

    A label with one config is its row's name. Of several, each is named by what differs.
    """
    by_label: dict[str, list[Run]] = {}
    for run in runs:
        by_label.setdefault(run.label, []).append(run)
    among = _keys(runs)
    found = [_rows(label, group, among) for label, group in by_label.items()]
    return [row for group in sorted(found, key=_position) for row in group]


def _position(group: Sequence[RowRuns]) -> int:
    """The label's place in its config; a part of a config knows no later one. Unknown: last."""
    known = [run.position for row in group for run in row.runs if run.position is not None]
    return max(known, default=10**9)


def _keys(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(key for run in runs for key in run.options))


def _rows(label: str, runs: Sequence[Run], among: Collection[str]) -> list[RowRuns]:
    by_config: dict[tuple[object, ...], list[Run]] = {}
    for run in runs:
        key: tuple[object, ...] = (run.config_hash,)
        if run.config_hash is None:
            key = (None, run.done, frozen(makes_result(run.options)))
        by_config.setdefault(key, []).append(run)
    for key in [key for key in by_config if key[0] is None and not key[1]]:
        made_of = key[2]
        theirs = {k: frozen(makes_result(group[0].options)) for k, group in by_config.items()}
        others = [k for k in theirs if k != key and (not made_of or theirs[k] in ((), made_of))]
        if len(others) == 1:
            by_config[others[0]] += by_config.pop(key)
    groups = list(by_config.values())
    if len(groups) == 1:
        return [RowRuns(groups[0], label)]
    firsts = [max(group, key=lambda run: run.done) for group in groups]
    options, contents = [run.options for run in firsts], [run.content for run in firsts]
    difference = Difference(options, contents, among)
    told = [", ".join(texts) for texts in difference.told]
    for index, first in enumerate(firsts):
        if not told[index] or told.count(told[index]) > 1:
            mark = f"hash={(first.config_hash or NOTHING)[:8]}"
            told[index] = f"{told[index]}, {mark}".removeprefix(", ")
    order = sorted(range(len(groups)), key=difference.place)
    return [RowRuns(groups[i], f"{label} [{told[i]}]", told[i]) for i in order]
