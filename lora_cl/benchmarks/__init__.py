"""Sequences of tasks."""

from __future__ import annotations

from typing import Any

from lora_cl.benchmarks.benchmark import (
    SCENARIOS,
    Benchmark,
    BenchmarkOptions,
    DatasetChoice,
    Samples,
    Task,
    permutation,
)
from lora_cl.benchmarks.permuted import Permuted
from lora_cl.benchmarks.rotated import Rotated
from lora_cl.benchmarks.sequence import Sequence
from lora_cl.benchmarks.split import Split
from lora_cl.options import choice
from lora_cl.plugins import Parts

BENCHMARKS: Parts[type[Benchmark]] = Parts(
    "benchmark",
    "lora_cl.benchmarks",
    Benchmark,
    BenchmarkOptions,
    {
        "split": Split,
        "permuted": Permuted,
        "rotated": Rotated,
        "sequence": Sequence,
    },
)

BenchmarkChoice: Any = choice(BENCHMARKS)

__all__ = [
    "BENCHMARKS",
    "SCENARIOS",
    "Benchmark",
    "BenchmarkChoice",
    "BenchmarkOptions",
    "DatasetChoice",
    "Samples",
    "Task",
    "permutation",
]
