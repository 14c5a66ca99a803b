"""Which runs are compared, in what order, and by which columns: the same for every format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from lora_cl.errors import ConfigError
from lora_cl.report.aggregate import Comparison
from lora_cl.report.columns import Column, find_column, in_order
from lora_cl.report.keys import CONTENT, FACTS, by_size, resolve, short_checksum, shown
from lora_cl.report.reading import Run
from lora_cl.text import did_you_mean, matching, one_line

MOST_TOLD = 20


@dataclass(frozen=True)
class Selection:
    """What is asked of a comparison, as it stands on the command line.

    ``methods`` are labels or patterns such as ``ewc*``; ``where`` are ``KEY=VALUE`` on facts and
    config keys, of which those of one key are alternatives; ``sort`` is a column, with ``-``
    before it the other way round; ``columns`` are names as in JSON, or config keys.
    """

    methods: Sequence[str] = ()
    where: Sequence[str] = ()
    sort: str | None = None
    columns: Sequence[str] = ()

    def runs(self, runs: Sequence[Run]) -> list[Run]:
        """Those of the runs that are asked for. Raises ConfigError if one name fits nothing."""
        labels = list(dict.fromkeys(run.label for run in runs))
        chosen = set(matching_labels("--methods", self.methods, labels) or labels)
        known = [_facts(run) for run in runs]
        conditions: dict[str, list[str]] = {}
        for text in self.where:
            key, value = _condition(text, known)
            conditions.setdefault(key, []).append(value)
        return [
            run
            for run, facts in zip(runs, known, strict=True)
            if run.label in chosen
            and all(
                any(_fits(facts.get(key), value) for value in values)
                for key, values in conditions.items()
            )
        ]

    def sorted(self, comparisons: Sequence[Comparison]) -> list[Comparison]:
        """The rows of each table in the order that is asked for."""
        if self.sort is None:
            return list(comparisons)
        rows = [row for one in comparisons for row in one.rows]
        column = find_column("--sort", self.sort.removeprefix("-"), rows)
        turned = self.sort.startswith("-")
        return [replace(one, rows=tuple(in_order(one.rows, column, turned))) for one in comparisons]

    def chosen_columns(self, comparisons: Sequence[Comparison]) -> list[Column]:
        rows = [row for one in comparisons for row in one.rows]
        return [find_column("--columns", name, rows) for name in words(self.columns)]


def words(texts: Sequence[str]) -> list[str]:
    """What stands between the commas of all of the texts."""
    return [word.strip() for text in texts for word in text.split(",") if word.strip()]


def matching_labels(option: str, patterns: Sequence[str], labels: Sequence[str]) -> list[str]:
    """The labels that fit one of the patterns. Raises ConfigError for one that fits none."""
    found: dict[str, None] = {}
    for pattern in words(patterns):
        fitting = matching(pattern, labels)
        if not fitting:
            hint = did_you_mean(pattern, labels)
            there = ", ".join(map(one_line, labels[:MOST_TOLD]))
            more = ", ..." if len(labels) > MOST_TOLD else ""
            told = f"{option} {one_line(pattern, limit=60)}"
            raise ConfigError(f"{told}: is no label{hint}; there are {there}{more}")
        found |= dict.fromkeys(fitting)
    return list(found)


def _facts(run: Run) -> dict[str, Any]:
    """What can be asked of a run, by name."""
    facts: dict[str, Any] = {f"{CONTENT}{key}": value for key, value in run.content.items()}
    return {**facts, **run.options, **{name: getattr(run, name) for name in FACTS}}


def _condition(text: str, known: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """Key and value of a KEY=VALUE that some run fulfils."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ConfigError(f"--where {one_line(text)}: should be KEY=VALUE, such as rank=4")
    key = resolve("--where", name, dict.fromkeys(key for facts in known for key in facts))
    values = [facts.get(key) for facts in known]
    if not any(_fits(one, value) for one in values):
        there = dict.fromkeys(map(_told, sorted(values, key=by_size)))
        told = ", ".join(list(there)[:MOST_TOLD]) + (", ..." if len(there) > MOST_TOLD else "")
        hint = did_you_mean(value, there)
        raise ConfigError(f"--where {one_line(text)}: no run has that{hint}; there is {told}")
    return key, value


def _told(value: Any) -> str:
    return short_checksum(value) if isinstance(value, str) else shown(value)


def _fits(value: Any, text: str) -> bool:
    """Whether ``text`` says ``value``: a pattern for text, any way to write a number."""
    if value is None:
        return text in ("null", "none", shown(None))
    if isinstance(value, str):
        return bool(matching(text, [value])) or text == short_checksum(value)
    if isinstance(value, bool):
        return text == json.dumps(value)
    if isinstance(value, int | float):
        with suppress(ValueError):
            return float(text) == value
        return False
    with suppress(ValueError, RecursionError):
        return bool(json.loads(text) == value)
    return False
