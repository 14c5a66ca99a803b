"""What a step is made of: arithmetic, the optimiser, other kernels, and Python around them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.profiler import ProfilerActivity, profile

from tests.bench.measure import Row, Setting
from tests.bench.sides import LORA, in_process, run_config

MATMUL = ("aten::mm", "aten::addmm", "aten::bmm")
GATHER = ("aten::index", "aten::index_select")


def rows(setting: Setting) -> list[Row]:
    """Shares of the step loop of full and lora over Split-MNIST.

    The kernels' own times come from torch's profiler, the step from a run without it, so the time
    that profiling adds is in neither; Python is what remains of the step: interpreter, autograd's
    bookkeeping and dispatch.
    """
    found = []
    for label, options in (("full", {}), ("lora", LORA)):
        run = run_config({label: options})
        in_process(run, setting.scratch / "shares")
        _, plain = in_process(run, setting.scratch / "shares")
        step = sum(record.seconds for record in plain) / sum(r.total_steps for r in plain)
        with profile(activities=[ProfilerActivity.CPU]) as profiler, _fits_marked():
            _, profiled = in_process(run, setting.scratch / "shares")
        steps = sum(record.total_steps for record in profiled)
        kernels = {
            name: seconds / steps for name, seconds in _own_seconds(profiler.events()).items()
        }
        parts = {
            "matrix products": sum(kernels.pop(name, 0.0) for name in MATMUL),
            "optimiser": sum(kernels.pop(n) for n in list(kernels) if "adam" in n),
            "gathering the batch": sum(kernels.pop(name, 0.0) for name in GATHER),
            "other kernels": sum(kernels.values()),
        }
        parts["Python and dispatch"] = max(0.0, step - sum(parts.values()))
        found += [
            Row(f"share of a step of {label}: {part}", 1000 * s, 1000 * step, "ms", s / step)
            for part, s in parts.items()
        ]
    return found


def _fits_marked() -> Any:
    """Puts a mark around every fit, so that only what is inside counts."""
    from unittest.mock import patch

    from torch.profiler import record_function

    from lora_cl import trainer

    fit = trainer.fit

    def marked(*arguments: Any, **options: Any) -> None:
        with record_function("bench fit"):
            fit(*arguments, **options)

    return patch.object(trainer, "fit", marked)


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
