"""Timing that survives a busy machine: sides take turns, and what counts is a median of ratios."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from lora_cl.running.machine import MemoryPeak

ROOT = Path(__file__).resolve().parents[2]
COMMAND = Path(sys.executable).with_name("lora-cl")


@dataclass(frozen=True)
class Setting:
    """How thorough to be, and a scratch folder."""

    quick: bool
    scratch: Path

    def of(self, full: int, quick: int) -> int:
        return quick if self.quick else full


@dataclass(frozen=True)
class Row:
    """One line of the table. ``ratio`` is what ``target`` limits; None where there is no target."""

    name: str
    ours: float
    other: float | None
    unit: str
    ratio: float | None
    target: str | None = None
    met: bool | None = None
    note: str = ""


def at_most(
    limit: float,
    name: str,
    ours: float,
    other: float | None,
    unit: str,
    ratio: float,
    note: str = "",
) -> Row:
    """A row whose ratio should be ``limit`` or less."""
    return Row(name, ours, other, unit, ratio, f"<= {limit:g}", ratio <= limit, note)


def at_least(
    limit: float,
    name: str,
    ours: float,
    other: float | None,
    unit: str,
    ratio: float,
    note: str = "",
) -> Row:
    """A row whose ratio should be ``limit`` or more."""
    return Row(name, ours, other, unit, ratio, f">= {limit:g}", ratio >= limit, note)


def take_turns(
    rounds: int, sides: Mapping[str, Callable[[], float]], warm_up: bool = True
) -> dict[str, list[float]]:
    """The seconds that each side reports, ``rounds`` times in turn: A B A B, then B A B A, ...

    The order within a round alternates, so that no side always follows the same other one.
    """
    names = list(sides)
    if warm_up:
        for name in names:
            sides[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            seconds[name].append(sides[name]())
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], one: str, other: str) -> float:
    """The median over the rounds of what ``one`` took in units of what ``other`` took."""
    return median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))


def cpu_clocked(function: Callable[[], object]) -> Callable[[], float]:
    """``function`` as a side of ``take_turns``, by the CPU time of this process.

    With one thread that is the time it takes on a machine that has nothing else to do.
    """

    def side() -> float:
        start = time.process_time()
        function()
        return time.process_time() - start

    return side


class MemoryGrowth:
    """By how much this process's memory grew at its peak, from the making of this on."""

    def __init__(self) -> None:
        ctypes.CDLL(None).malloc_trim(0)  # Or what was freed before would be used unseen.
        self.peak = MemoryPeak(torch.device("cpu"))
        self.before = self.peak.bytes()

    def bytes(self) -> int | None:
        """None where the system does not tell."""
        now = self.peak.bytes()
        return None if now is None or self.before is None else now - self.before


def process(arguments: Sequence[str | Path], env: Mapping[str, str] | None = None) -> float:
    """The wall seconds of a whole process. RuntimeError with its last words if it fails."""
    start = time.perf_counter()
    done = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{arguments[0]} failed:\n{done.stderr[-2000:]}")
    return seconds


def same_loss(name: str, one: float, other: float, tolerance: float) -> None:
    """Two sides that should have done the same work must have arrived at the same loss."""
    if not abs(one - other) <= tolerance:
        raise AssertionError(f"{name}: not the same work, final losses {one} and {other}")
