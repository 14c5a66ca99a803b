"""What a run lacks against training on all tasks at once: the reference of the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lora_cl.records.metrics import intransigence, last_task_intransigence
from lora_cl.report.reading import Run

AGAINST_REFERENCE = ("intransigence", "last_task_intransigence")
"""Measures that need two runs."""


def with_intransigence(runs: Sequence[Run]) -> list[Run]:
    """The runs of one table, those that are done with AGAINST_REFERENCE among their values.

    None for the reference itself, and where a seed has none, or several that differ in config.
    """
    references: dict[int, list[Run]] = {}
    for run in runs:
        if run.all_at_once:
            references.setdefault(run.seed, []).append(run)
    return [_measured(run, references.get(run.seed, [])) if run.done else run for run in runs]


def _measured(run: Run, references: Sequence[Run]) -> Run:
    r, joint = run.matrix, None
    if len({one.config_hash for one in references}) == 1 and not run.all_at_once:
        joint = references[0].matrix
    values: dict[str, float | None] = dict.fromkeys(AGAINST_REFERENCE)
    if r is not None and joint is not None and len(r) == len(joint):
        values = {
            "intransigence": intransigence(r, joint),
            "last_task_intransigence": last_task_intransigence(r, joint),
        }
    return replace(run, values={**run.values, **values})
