"""Gradient projection memory written a second time, in plain numpy, on the inputs themselves."""

from __future__ import annotations

import numpy as np


def gpm(basis, H, share):
    """The basis (d, k) and the fewest left singular vectors of what it misses of H (d, n)."""
    total = (H**2).sum()
    rest = H - basis @ (basis.T @ H)
    U, _, _ = np.linalg.svd(rest)
    k = 0
    while (rest**2).sum() > (1 - share) * total + 1e-12 * total:
        direction = U[:, k : k + 1]
        rest = rest - direction @ (direction.T @ rest)
        basis = np.concatenate([basis, direction], axis=1)
        k += 1
    return basis
