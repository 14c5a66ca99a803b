from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_tiny import TRAIN_X, TRAIN_Y, idx

from lora_cl.data.idx import parse_idx
from lora_cl.errors import DataError

HERE = Path("some/train-images")


def parse(content: bytes, dimensions: int = 3) -> np.ndarray:
    return parse_idx(np.frombuffer(content, np.uint8), HERE, dimensions)


def test_a_good_file_is_read_as_it_is():
    assert np.array_equal(parse(idx(TRAIN_X)), TRAIN_X)
    assert np.array_equal(parse(idx(TRAIN_Y), 1), TRAIN_Y)
    # By hand: 2 labels, 7 and 9.
    assert parse(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]), 1).tolist() == [7, 9]


@pytest.mark.parametrize(
    ("content", "dimensions", "says"),
    [
        (b"", 3, "is truncated: 0 bytes, the header alone has 16"),
        (idx(TRAIN_X)[:15], 3, "is truncated: 15 bytes"),
        (idx(TRAIN_X)[:-1], 3, r"is truncated: 111 bytes, 112 expected for shape \(6, 4, 4\)"),
        (idx(TRAIN_X) + b"!", 3, "goes on after its end: 113 bytes, 112 expected"),
        (idx(TRAIN_Y) + bytes(16), 3, "begins with 00000801, expected 00000803"),
        (idx(TRAIN_X), 1, "begins with 00000803, expected 00000801"),
        (b"\x1f\x8b" + idx(TRAIN_X)[2:], 3, "is no IDX file"),
        (bytes([0, 0, 13, 3]) + idx(TRAIN_X)[4:], 3, "is no IDX file of bytes"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12, 3, "is truncated"),
        (idx(TRAIN_X[:0]), 3, "holds nothing"),
    ],
)
def test_anything_else_is_refused_by_name(content: bytes, dimensions: int, says: str):
    with pytest.raises(DataError, match=f"^some/train-images: .*{says}") as caught:
        parse(content, dimensions)
    assert "\n" not in str(caught.value)
