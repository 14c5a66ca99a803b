"""The train/test split of data that came without one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lora_cl.data.source import named
from lora_cl.errors import DataError
from lora_cl.seeding import seed_for


def stratified_split(
    labels: NDArray[np.int64], what: str, names: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of an 80/20 train/test split of ``labels`` (N,), each sorted ascending.

    One fifth of every class, rounded half up but at least one, is drawn for the test set. The draw
    depends on nothing but the labels, so it is the same for every run and machine. Raises
    DataError, beginning with ``what``, if a class, by its name of ``names``, has a single example.
    """
    # RandomState's stream is frozen by numpy for ever; torch's and Generator's are not.
    random = np.random.RandomState(seed_for(0, "data", "split") % 2**32)
    test: list[NDArray[np.int64]] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise DataError(
                f"{what}: {named(names, label)} has 1 example, and at least 2 are needed to split "
                "off a test set; add examples or give a test set"
            )
        count = max(1, (2 * len(members) + 5) // 10)
        test.append(members[random.permutation(len(members))[:count]])
    chosen = np.sort(np.concatenate(test))
    return np.setdiff1d(np.arange(len(labels)), chosen, assume_unique=True), chosen
