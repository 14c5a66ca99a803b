"""What a table says of its best row, in three sentences made from its numbers."""

from __future__ import annotations

from collections.abc import Sequence

from lora_cl.report.aggregate import Comparison, Row
from lora_cl.report.layout import competitors
from lora_cl.report.statistics import Summary, paired
from lora_cl.text import count, one_line, percent, size

ACCURACY = "average_accuracy"


def story(comparison: Comparison) -> list[str]:
    """Who is best and by how much, what it forgets, what it costs; empty where nobody competes."""
    found = sorted(competitors(comparison.rows, ACCURACY), key=lambda pair: -pair[1])
    if len(found) < 2:
        return []
    best, second = found[0][0], found[1][0]
    others = [row for row, _ in found if row is not best]
    told = [_first(best, second), _forgetting(best, others), _cost(best, others)]
    return [sentence for sentence in told if sentence]


def _first(best: Row, second: Row) -> str:
    n = len(best.seeds)
    mean = best.measures[ACCURACY]
    text = f"{_name(best)} has the highest average accuracy of the rows that compete, {_told(mean)}"
    text += f" over {n} seeds" if n > 1 else ", of a single seed"
    pair = paired(best.by_seed[ACCURACY], second.by_seed[ACCURACY])
    if pair is None:
        return f"{text}; {_name(second)} comes next with {_told(second.measures[ACCURACY])}."
    points = percent(pair.mean)
    ahead = f"{points} points ahead of" if pair.mean > 0 and points != "0.00" else "level with"
    ahead += f" {_name(second)}"
    if pair.p is None or pair.ci95 is None:
        return f"{text}, {ahead}."
    sure = pair.ci95 < pair.mean
    ahead += f" (paired by seed ± {percent(pair.ci95)}, p = {pair.p:.3g}"
    ahead += "" if pair.p > pair.smallest_p else f", the smallest that {pair.n} seeds allow"
    return f"{text}, {ahead})" + ("." if sure else ": these seeds do not tell the two apart.")


def _forgetting(best: Row, others: Sequence[Row]) -> str:
    """What it forgot, beside the one that forgot most."""
    mine = best.measures["forgetting"].mean
    lost = {row.label: row.measures["forgetting"].mean for row in others}
    known = {label: mean for label, mean in lost.items() if mean is not None}
    if mine is None:
        return ""
    if best.isolated and mine == 0:
        text = "It forgets nothing, by construction and checked"
    elif mine < 0:
        text = f"Its old tasks ended {percent(-mine)} points better than they ever were before"
    else:
        text = f"By the end it has lost {percent(mine)} points of what it once knew of a task"
    worst = max(known, key=lambda label: known[label], default=None)
    if worst is not None and known[worst] > max(mine, 0.0):
        text += f"; {one_line(worst)}, which forgets most, loses {percent(known[worst])}"
    return f"{text}."


def _cost(best: Row, others: Sequence[Row]) -> str:
    """What it keeps, beside the smallest of those that are nearly as good."""
    stored, added = (best.measures[name].mean for name in ("stored_bytes", "added_params_per_task"))
    if stored is None:
        return ""
    text = f"It stores {size(stored)}"
    text += "" if added is None else f" and adds {count(added)} parameters per task"
    smaller = [
        (mean, row)
        for row in others
        if (mean := row.measures["stored_bytes"].mean) is not None and 0 < mean < 0.9 * stored
    ]
    if not smaller:
        return f"{text}; no row that competes needs a tenth less."
    least, row = max(smaller, key=lambda pair: pair[1].measures[ACCURACY].mean or 0.0)
    accuracy = row.measures[ACCURACY].mean or 0.0
    return (
        f"{text}; with {size(least)}, {stored / least:.2g} times less, "
        f"{_name(row)} reaches {percent(accuracy)} %."
    )


def _told(summary: Summary) -> str:
    if summary.mean is None:
        return "unknown"
    text = f"{percent(summary.mean)} %"
    return text if summary.ci95 is None else f"{text} ± {percent(summary.ci95)} (95 % interval)"


def _name(row: Row) -> str:
    return one_line(row.label)
