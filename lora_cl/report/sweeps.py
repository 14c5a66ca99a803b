"""Rows of one method that differ in one number: the curve of a measure over that number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lora_cl.report.aggregate import Row
from lora_cl.report.keys import frozen, makes_result, short_name, shown

LEAST_POINTS = 3


@dataclass(frozen=True)
class Curve:
    """``rows`` by rising ``values`` of one option; ``name`` tells it from others over that key."""

    name: str
    values: tuple[float, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Sweep:
    """The curves over one option, whose dotted key is ``key`` and short name ``header``."""

    key: str
    header: str
    curves: tuple[Curve, ...]


def sweeps(rows: Sequence[Row]) -> list[Sweep]:
    """Every option over which three or more rows make a curve, all else being equal.

    An option that follows another, such as alpha = 2 rank, makes no curve of its own.
    """
    made = [row for row in rows if row.options and row.seeds]
    among = list(dict.fromkeys(key for row in made for key in row.options))
    methods: dict[str, list[Row]] = {}
    for row in made:
        methods.setdefault(row.method, []).append(row)
    found: dict[str, list[Curve]] = {}
    seen: set[frozenset[str]] = set()
    for method, members in methods.items():
        keys = _varying_numbers(members)
        for key in keys:
            for curve in _curves(method, members, key, keys, among):
                labels = frozenset(row.label for row in curve.rows)
                if labels not in seen:
                    seen.add(labels)
                    found.setdefault(key, []).append(curve)
    return [Sweep(key, short_name(key, among), tuple(curves)) for key, curves in found.items()]


def _varying_numbers(rows: Sequence[Row]) -> list[str]:
    """The options that are numbers where they are there, and not the same everywhere."""
    keys = dict.fromkeys(key for row in rows for key in makes_result(row.options))
    found = []
    for key in keys:
        values = [row.options[key] for row in rows if key in row.options]
        if all(type(value) in (int, float) for value in values) and len(set(values)) > 1:
            found.append(key)
    return found


def _curves(
    method: str, rows: Sequence[Row], key: str, numbers: Sequence[str], among: Sequence[str]
) -> list[Curve]:
    others = [k for k in numbers if k != key and not _follows(k, key, rows)]
    groups: dict[object, list[Row]] = {}
    for row in rows:
        if key in row.options:
            rest = {k: v for k, v in makes_result(row.options).items() if k not in numbers}
            fixed = {k: row.options.get(k) for k in others}
            groups.setdefault((frozen(rest), frozen(fixed)), []).append(row)
    lines = [
        sorted(group, key=lambda row: float(row.options[key]))
        for group in groups.values()
        if len({row.options[key] for row in group}) == len(group) >= LEAST_POINTS
    ]
    firsts = [line[0].options for line in lines]
    differing = [k for k in among if k not in numbers or k in others]
    differing = [k for k in differing if len({shown(one.get(k)) for one in firsts}) > 1]
    return [
        Curve(
            _named(method, line[0].options, differing, among),
            tuple(float(row.options[key]) for row in line),
            tuple(line),
        )
        for line in lines
    ]


def _named(
    method: str, options: dict[str, Any], differing: Sequence[str], among: Sequence[str]
) -> str:
    told = [f"{short_name(k, among)}={shown(options.get(k))}" for k in differing]
    return f"{method} [{', '.join(told)}]" if told else method


def _follows(key: str, leader: str, rows: Sequence[Row]) -> bool:
    """Whether to every value of ``leader`` belongs one of ``key``."""
    values: dict[Any, set[Any]] = {}
    for row in rows:
        values.setdefault(row.options.get(leader), set()).add(row.options.get(key))
    return all(len(found) == 1 for found in values.values())
