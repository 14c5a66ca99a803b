"""What a step is made of: arithmetic, the optimiser, other kernels, and Python around them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from statistics import median
from typing import Any
from unittest.mock import patch

from torch.profiler import ProfilerActivity, profile, record_function

from lora_cl.config import RunConfig
from lora_cl.training import loop
from tests.bench.measure import Row, Setting, take_turns
from tests.bench.sides import LORA, in_process, run_config, seconds_a_step

MATMUL = ("aten::mm", "aten::addmm", "aten::bmm")
GATHER = ("aten::index", "aten::index_select")


# One sample of four features through layers of four: only the way around the kernels is left.
NO_ARITHMETIC: dict[str, Any] = {
    "benchmark": {"name": "split", "dataset": {"name": "synthetic", "features": 4}, "tasks": 5},
    "model": {"name": "mlp", "hidden": [4, 4]},
}


def rows(setting: Setting) -> list[Row]:
    """Shares of the step loop of full and lora on Split-MNIST.

    Python and dispatch is the CPU time of a step of the same method on a network too small to
    have arithmetic; what the real step takes beyond that is divided among the kernels in the
    proportions of their own times in torch's profiler.
    """
    iterations = 100  # An epoch of every task: a shorter fit has no cached prefix.
    found = []
    for label, options in (("full", {}), ("lora", LORA)):
        run = run_config({label: options}, train={"iterations": iterations})
        train = {"iterations": iterations, "batch_size": 1}
        tiny = run_config({label: options}, train=train, **NO_ARITHMETIC)

        def step(run: RunConfig) -> Callable[[], float]:
            def side() -> float:
                _, records = in_process(run, setting.scratch / "shares")
                return seconds_a_step(records)

            return side

        seconds = take_turns(setting.of(9, 2), {"real": step(run), "tiny": step(tiny)})
        whole, python = median(seconds["real"]), median(seconds["tiny"])
        with profile(activities=[ProfilerActivity.CPU]) as profiler, _fits_marked():
            in_process(run, setting.scratch / "shares")
        kernels = _own_seconds(profiler.events())
        parts = {
            "matrix products": sum(kernels.pop(name, 0.0) for name in MATMUL),
            "optimiser": sum(kernels.pop(n) for n in list(kernels) if "adam" in n),
            "gathering the batch": sum(kernels.pop(name, 0.0) for name in GATHER),
            "other kernels": sum(kernels.values()),
        }
        scale = (whole - python) / sum(parts.values())
        parts = {part: scale * value for part, value in parts.items()}
        parts["Python and dispatch"] = python
        found += [
            Row(f"share of a step of {label}: {part}", 1000 * s, 1000 * whole, "ms", s / whole)
            for part, s in parts.items()
        ]
    return found


def _fits_marked() -> Any:
    """Puts a mark around every fit, so that only what is inside counts."""
    fit = loop.fit

    def marked(*arguments: Any, **options: Any) -> None:
        with record_function("bench fit"):
            fit(*arguments, **options)

    return patch.object(loop, "fit", marked)


def _own_seconds(events: Iterable[Any]) -> dict[str, float]:
    """The own CPU seconds of every ATen operation within the marks, by name."""
    events = list(events)
    spans = [e.time_range for e in events if e.name == "bench fit"]
    found: dict[str, float] = {}
    for event in events:
        if event.name.startswith("aten::") and any(
            span.start <= event.time_range.start <= span.end for span in spans
        ):
            found[event.name] = found.get(event.name, 0.0) + event.self_cpu_time_total / 1e6
    return found
