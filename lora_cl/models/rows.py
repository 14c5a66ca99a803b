"""Which rows of a batch go through a backbone at a time, where it takes its batch apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_rows: ContextVar[Tensor | None] = ContextVar("rows", default=None)


def current_rows() -> Tensor | None:
    """The rows (n,) of the whole batch that are in the network now; None: all of them."""
    return _rows.get()


@contextmanager
def part_of_batch(rows: Tensor) -> Iterator[None]:
    """Inside, only ``rows`` (n,) of the batch around are in the network, in this order."""
    around = _rows.get()
    token = _rows.set(rows if around is None else around[rows])
    try:
        yield
    finally:
        _rows.reset(token)
