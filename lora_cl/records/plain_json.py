"""JSON of which only those numbers are taken that a run can have written."""

from __future__ import annotations

import json
import math
from typing import Any

LARGEST = 2**63 - 1


class NumberError(ValueError):
    """A number that no run writes: not finite, or a whole one of more than 64 bits."""


def read_json(text: str | bytes) -> Any:
    """Raises ValueError for what is no JSON, NumberError, and RecursionError if it is too deep."""
    content = text.decode() if isinstance(text, bytes) else text
    return _DECODER.decode(content)


def _whole(text: str) -> int:
    if len(text) > 20 or abs(int(text)) > LARGEST:
        raise NumberError(f"holds the number {text[:20]}…, which no run writes")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise NumberError(f"holds the number {text[:20]}, which no run writes")
    return value


_DECODER = json.JSONDecoder(parse_int=_whole, parse_float=_finite, parse_constant=_finite)
