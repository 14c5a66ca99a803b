"""An equal budget: the option that decides a method's size, as large as the budget allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from lora_cl.benchmarks import Benchmark, Task
from lora_cl.config import Config
from lora_cl.errors import ConfigError
from lora_cl.methods import METHODS, MemoryBank
from lora_cl.models import build_network

ENOUGH = 64
"""A size that makes no difference to what is budgeted up to here makes none."""


def with_budget(config: Config, benchmark: Benchmark, root: Path) -> Config:
    """The config with the size of every method that has one as `budget` allows.

    A size is the largest with which the method has at most so much; where it makes no difference to
    what the budget is of, it stays. Raises ConfigError where even the smallest is too large.
    """
    if config.budget is None:
        return config
    methods = {label: _sized(config, label, benchmark, root) for label in config.methods}
    return config.model_copy(update={"methods": methods})


def _sized(config: Config, label: str, benchmark: Benchmark, root: Path) -> Any:
    assert config.budget is not None
    options, (measure, most) = config.methods[label], config.budget.asked
    size = METHODS[options.method].sized_by(options)
    if size is None:
        return options

    def of(number: int) -> Any:
        return _with(options, size.key.split("."), size.value(number))

    @cache
    def amount(number: int) -> float:
        return size_of(config, of(number), benchmark, root)[measure]

    least = amount(1)
    if amount(min(ENOUGH, size.most)) == least:
        return options
    if least > most:
        told = f"the least {size.key}, {size.value(1):g}, is {least:,.0f} {measure}"
        message = f"cannot keep to the budget of {most:,}: {told}, and that is the nearest there is"
        raise ConfigError(message, f"methods.{label}")
    return of(_largest(amount, most, size.most))


def _largest(amount: Callable[[int], float], most: int, limit: int) -> int:
    """The largest number up to ``limit`` whose amount, which grows with it, is at most ``most``.

    Of several of the same amount, as of a memory that holds all samples there are, the smallest.
    """
    largest = _last(lambda number: amount(number) <= most, limit)
    whole = amount(largest)
    return _last(lambda number: number == 1 or amount(number - 1) < whole, largest)


def _last(holds: Callable[[int], bool], limit: int) -> int:
    """The largest number from 1 to ``limit`` for which it holds, as for all that are smaller."""
    low, high = 1, 2
    while high <= limit and holds(high):
        low, high = high, 2 * high
    high = min(high, limit + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def size_of(config: Config, options: Any, benchmark: Benchmark, root: Path) -> dict[str, float]:
    """What a method would have after all tasks, by the names in a budget; nothing is trained."""
    method = METHODS[options.method](options)
    network = build_network(config.model, benchmark.input_shape, 0, root)
    before = sum(parameter.numel() for parameter in network.parameters())
    method.setup(network, benchmark, 0, MemoryBank())

    def fit(tasks: Sequence[Task], *, start: float = 0.0, end: float = 1.0) -> None:
        with method.view_together(tasks) as view:
            method.start_fit(tasks, view)

    totals = []
    for index in range(benchmark.n_tasks):
        task = benchmark.task(index)
        method.begin(task)
        method.learn(task, fit)
        method.finish(task)
        totals.append(method.total_parameters())
    added = (totals[-1] - totals[0]) / (len(totals) - 1) if len(totals) > 1 else totals[0] - before
    return {"added_params_per_task": added, "stored_bytes": method.stored_bytes()}


def _with(options: Any, path: Sequence[str], value: Any) -> Any:
    """``options`` with the value at a path of keys."""
    first, *rest = path
    inner = _with(getattr(options, first), rest, value) if rest else value
    return options.model_copy(update={first: inner})
