"""Inputs that do not fit: they stay where they are, and batches of them are made in time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

AHEAD = 4
"""How many batches are being made while one is in use, each by a thread of its own."""


@dataclass(frozen=True, eq=False)
class Streamed:
    """Stands in for inputs (N, *input) that would be too large as one float32 tensor.

    ``make`` turns indices (n,) int64 on the CPU into those rows, float32 (n, *input) on ``device``;
    it is called from several threads, and a row does not depend on the others it is made with.
    """

    make: Callable[[Tensor], Tensor]
    length: int
    device: torch.device

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        if isinstance(index, slice):
            return self.make(torch.arange(*index.indices(self.length)))
        return self.make(index.cpu())

    def ahead(self, indices: Iterable[Tensor]) -> Iterator[Tensor]:
        """The batches at ``indices`` in their order; threads make the next ones meanwhile."""
        with ThreadPoolExecutor(AHEAD) as pool:
            waiting: deque[Future[Tensor]] = deque()
            try:
                for index in indices:
                    waiting.append(pool.submit(self.__getitem__, index))
                    if len(waiting) > AHEAD:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)


Inputs = Tensor | Streamed


def batches(x: Inputs, indices: Iterable[Tensor]) -> Iterator[Tensor]:
    """The rows of x at each of ``indices``, in their order."""
    if isinstance(x, Streamed):
        return x.ahead(indices)
    return (x.index_select(0, index) for index in indices)


def parts(x: Inputs, size: int) -> Iterable[Tensor]:
    """x in consecutive parts of ``size`` rows, the last one of what is left."""
    if isinstance(x, Streamed):
        return x.ahead(torch.split(torch.arange(len(x)), size))
    return torch.split(x, size)


def subset(x: Inputs, rows: Tensor) -> Inputs:
    """The rows of x at ``rows`` (n,)."""
    if not isinstance(x, Streamed):
        return x.index_select(0, rows)
    make, kept = x.make, rows.cpu()
    return Streamed(lambda index: make(kept[index]), len(kept), x.device)


def joined(several: Sequence[Inputs]) -> Inputs:
    """The rows of all of ``several``, one after another."""
    whole = [x for x in several if isinstance(x, Tensor)]
    if len(several) == 1:
        return several[0]
    if len(whole) == len(several):
        return torch.cat(whole)
    ends = torch.tensor([len(x) for x in several]).cumsum(0)

    def make(index: Tensor) -> Tensor:
        owners = torch.bucketize(index, ends, right=True)
        rows, order = [], []
        for owner in sorted(set(owners.tolist())):
            x, start = several[owner], int(ends[owner]) - len(several[owner])
            where = torch.nonzero(owners == owner).squeeze(1)
            rows.append(x[(index[where] - start).to(x.device)])
            order.append(where)
        together = torch.cat(rows)
        return together.index_select(0, torch.cat(order).argsort().to(together.device))

    return Streamed(make, int(ends[-1]), several[0].device)
