"""Rows against one of them, seed by seed: by how much they differ, and whether that says anything.

Differences are of average accuracy, row minus baseline. Only seeds that both rows have count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lora_cl.errors import ConfigError
from lora_cl.report.aggregate import Comparison, Row
from lora_cl.report.layout import Block, Cell, competitors
from lora_cl.report.statistics import SIGNIFICANT, Paired, holm, paired, seeds_needed, smallest_p
from lora_cl.text import NOTHING, did_you_mean, one_line, percent

MEASURE = "average_accuracy"
MOST_LABELS = 20


@dataclass(frozen=True)
class Difference:
    """A row against the baseline: None where no seed is in common; p is corrected over the rows."""

    row: str
    pair: Paired | None
    p_holm: float | None


@dataclass(frozen=True)
class Against:
    """The rows of one table against the one called ``label``; none where it has no such row."""

    label: str
    differences: tuple[Difference, ...]

    def as_json(self, row: str) -> dict[str, Any] | None:
        """What is known of a row, as JSON; None for the baseline, and where there is none."""
        for one in self.differences:
            if one.row == row and one.pair is not None:
                numbers = {**asdict(one.pair), "p_holm": one.p_holm}
                return {"label": self.label, "measure": MEASURE, **numbers}
        return None


NUMBERS = ("mean", "ci95", "p", "smallest_p", "n", "p_holm")
"""Of ``as_json``, those that are of the row."""


def against(comparisons: Sequence[Comparison], label: str) -> list[Against]:
    """Each table against its row ``label``.

    Raises ConfigError if no table has such a row, or none another row with a seed in common.
    """
    labels = list(dict.fromkeys(row.label for one in comparisons for row in one.rows))
    told = f"--baseline {one_line(label, 60)}"
    if label not in labels:
        hint = did_you_mean(label, labels)
        there = ", ".join(map(one_line, labels[:MOST_LABELS]))
        more = ", ..." if len(labels) > MOST_LABELS else ""
        raise ConfigError(f"{told}: no row is called so{hint}; there are {there}{more}")
    found = [Against(label, differences(one.rows, label)) for one in comparisons]
    if not any(one.pair for table in found for one in table.differences):
        raise ConfigError(f"{told}: no other row has a finished seed in common with it")
    return found


def differences(rows: Sequence[Row], label: str) -> tuple[Difference, ...]:
    """Every other row against the one called ``label``, with Holm's correction over them."""
    base = next((row for row in rows if row.label == label), None)
    if base is None:
        return ()
    pairs = {
        row.label: paired(row.by_seed[MEASURE], base.by_seed[MEASURE])
        for row in rows
        if row is not base
    }
    tested = {name: pair.p for name, pair in pairs.items() if pair and pair.p is not None}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    return tuple(Difference(name, pair, adjusted.get(name)) for name, pair in pairs.items())


def block(table: Against) -> Block:
    """The differences as a table, in points."""
    shown = f"difference to {one_line(table.label)}"
    headers = ("method", shown, "95 % interval", "p", "p, Holm", "smallest p", "n")
    return Block(headers, tuple(map(_cells, table.differences)))


def _cells(one: Difference) -> tuple[Cell, ...]:
    pair = one.pair
    texts = [one_line(one.row), *[NOTHING] * 5, "0"]
    if pair is not None:
        interval = NOTHING
        if pair.ci95 is not None:
            interval = f"{percent(pair.mean - pair.ci95)} to {percent(pair.mean + pair.ci95)}"
        ps = [NOTHING if p is None else f"{p:.3g}" for p in (pair.p, one.p_holm, pair.smallest_p)]
        texts[1:] = [percent(pair.mean), interval, *ps, str(pair.n)]
    return tuple(map(Cell, texts))


def notes_of(table: Against) -> list[str]:
    """How to read the block, and whether there are seeds enough for it to say anything."""
    label = one_line(table.label)
    if not table.differences:
        return [f"No row is called {label} here."]
    notes = [
        f"Differences to {label} are of average accuracy, in points, paired by seed: the mean, its "
        "95 % interval (Student's t), the exact two-sided p of the sign-flip test (all 2ⁿ "
        "choices of signs), and that p by Holm's correction over the rows of the table."
    ]
    tested = [one.pair for one in table.differences if one.pair and one.pair.p is not None]
    for n in sorted({pair.n for pair in tested}):
        if len(tested) * smallest_p(n) > SIGNIFICANT:
            needed = f"{seeds_needed(len(tested))} for p ≤ {SIGNIFICANT:g} after the correction"
            if len(tested) > 1:
                needed += f", {seeds_needed(1)} without it"
            notes.append(
                f"More seeds needed: n = {n} allows no p below {smallest_p(n):.3g}, however large "
                f"the difference; {needed}."
            )
    return notes


def to_the_best(rows: Sequence[Row]) -> list[str]:
    """The differences to the best row, a line each, after one that says what they are."""
    found = competitors(rows, MEASURE)
    if len(found) < 2:
        return []
    best = max(found, key=lambda pair: pair[1])[0]
    lines = []
    for one in differences(rows, best.label):
        pair = one.pair
        if pair is None:
            continue
        line = f"{one_line(one.row)} − {one_line(best.label)}: {percent(pair.mean)}"
        if pair.ci95 is not None:
            line += f" ± {percent(pair.ci95)}"
        line += f", n = {pair.n}"
        if pair.p is not None and pair.n > 1:
            line += f", p = {pair.p:.3g} (cannot be below {pair.smallest_p:.3g})"
        lines.append(line)
    if lines:
        lines.insert(
            0,
            "Differences in average accuracy, in points, paired by seed: mean ± half width of the "
            "95 % interval, exact sign-flip p.",
        )
    return lines
