"""What torch.compile of every fit's network costs and gives: why `compile: true` is refused."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

from lora_cl.running import session
from tests.bench.measure import Row, Setting, ratio, take_turns
from tests.bench.sides import LORA, in_process, run_config, seconds_a_step


def rows(setting: Setting) -> list[Row]:
    """A whole run with torch.compile, and a step once it is compiled, against those without."""
    if setting.quick:
        return []
    without_prefix = session.without_prefix

    def compiled(network: Any, *arguments: Any) -> Any:
        shorter, x = without_prefix(network, *arguments)
        return torch.compile(shorter), x

    found = []
    for label, options in (("full", {}), ("lora", LORA)):
        run = run_config({label: options})
        steps: dict[str, list[float]] = {"compiled": [], "plain": []}

        def side(name: str, run: Any = run, steps: Any = steps) -> Callable[[], float]:
            def timed() -> float:
                start = time.perf_counter()
                # What an earlier process compiled is not to be found.
                cache = {"TORCHINDUCTOR_CACHE_DIR": str(setting.scratch / f"inductor-{run.label}")}
                chosen = compiled if name == "compiled" else without_prefix
                with patch.dict(os.environ, cache), patch.object(session, "without_prefix", chosen):
                    _, records = in_process(run, setting.scratch / "choices")
                steps[name].append(seconds_a_step(records[1:]))
                return time.perf_counter() - start

            return timed

        first = take_turns(1, {name: side(name) for name in steps}, warm_up=False)
        name = f"torch.compile / without, {label}"
        took = f"{first['compiled'][0] - first['plain'][0]:.0f} s more"
        found.append(
            Row(
                f"{name}: a run of 471 steps",
                first["compiled"][0],
                first["plain"][0],
                "s",
                first["compiled"][0] / first["plain"][0],
                note=f"{took}, by the clock, the first time in a process",
            )
        )
        for noted in steps.values():
            noted.clear()
        take_turns(5, {name: side(name) for name in steps}, warm_up=False)
        found.append(
            Row(
                f"{name}: a step once compiled",
                1000 * median(steps["compiled"]),
                1000 * median(steps["plain"]),
                "ms a step",
                ratio(steps, "compiled", "plain"),
            )
        )
    return found
