"""Every random stream of a run comes from here, each under its own name."""

from __future__ import annotations

import hashlib


def seed_for(seed: int, *names: str | int) -> int:
    """A seed in [0, 2**63) for the stream called ``names`` of the run with ``seed``.

    Streams are independent: one more draw in one of them moves no other.
    """
    text = "\x1f".join([str(seed), *(f"{type(name).__name__}:{name}" for name in names)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
