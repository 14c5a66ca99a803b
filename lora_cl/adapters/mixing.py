"""One batch, many adapters: each row through its own, the base once for all.

As in multi-tenant serving of LoRA (Chen et al. 2023, arXiv 2310.18547): the frozen layers, which
are most of the work, see the whole batch; of the adapters each sees the rows of its task.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lora_cl.adapters.layer import AdaptedLayer
from lora_cl.errors import MethodError
from lora_cl.models.rows import current_rows


class Mixture:
    """Which adapter each row of a batch goes through: ``owners`` (N,) int64 count ``names``.

    Rows of one adapter that lie together are computed together: sort the batch by its owners.
    """

    def __init__(self, names: Sequence[str], owners: Tensor) -> None:
        self.names = list(names)
        self.owners = owners
        self._groups = self._grouped(owners)
        self._of_rows: tuple[Tensor, list[tuple[str, int]]] | None = None

    def groups(self) -> list[tuple[str, int]]:
        """Name and number of the rows that lie together, of those in the network now."""
        rows = current_rows()
        if rows is None:
            return self._groups
        if self._of_rows is None or self._of_rows[0] is not rows:
            self._of_rows = rows, self._grouped(self.owners[rows])
        return self._of_rows[1]

    def _grouped(self, owners: Tensor) -> list[tuple[str, int]]:
        found, counts = torch.unique_consecutive(owners, return_counts=True)
        return [(self.names[k], n) for k, n in zip(found.tolist(), counts.tolist(), strict=True)]

    def __call__(self, layer: AdaptedLayer, x: Tensor, base_out: Tensor) -> Tensor:
        """The layer's output: as ``AdaptedLayer.from_base``, each row by its own adapter.

        The dimension ``layer.batch_dim`` of x is the batch, or the batch times what each row was
        divided into, such as the windows of an image.
        """
        groups = self.groups()
        if len(groups) == 1:
            out: Tensor = layer.adapters[groups[0][0]](x, base_out, layer.base)
            return out
        rows, dim = sum(count for _, count in groups), layer.batch_dim
        there = x.shape[dim]
        if there % rows:
            raise MethodError(
                f"a layer takes {tuple(x.shape)} for {rows} samples: its rows are not theirs, and "
                "no batch of several tasks can be mixed in this network"
            )
        sizes = [count * (there // rows) for _, count in groups]
        pieces = torch.split(x, sizes, dim), torch.split(base_out, sizes, dim)
        parts = zip(groups, *pieces, strict=True)
        return torch.cat(
            [layer.adapters[name](part, out, layer.base) for (name, _), part, out in parts], dim
        )
