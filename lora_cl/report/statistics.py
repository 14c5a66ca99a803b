"""Statistics over seeds: mean with its interval, and differences paired by seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

CONFIDENCE = 0.95
SIGNIFICANT = 0.05
MOST_SIGNS = 32


@dataclass(frozen=True)
class Summary:
    """A measure over ``n`` seeds.

    ``std`` is the sample standard deviation (divisor n - 1), ``ci95`` the half width of the 95 %
    interval of the mean (Student t); both are None below two seeds, ``mean`` without any.
    """

    mean: float | None
    std: float | None
    ci95: float | None
    n: int

    @property
    def sem(self) -> float | None:
        """The standard error of the mean, std / sqrt(n)."""
        return None if self.std is None else self.std / math.sqrt(self.n)


@dataclass(frozen=True)
class Paired:
    """The mean difference a - b over the ``n`` seeds that both have.

    ``ci95`` is the half width of its 95 % interval, ``p`` the exact two-sided sign-flip p,
    ``smallest_p`` the smallest that p can be with n seeds, 2 / 2**n.
    """

    mean: float
    ci95: float | None
    p: float | None
    smallest_p: float
    n: int


def summarise(values: Iterable[float | None]) -> Summary:
    """Mean, sample standard deviation and 95 % interval of what was measured (not None)."""
    known = [float(value) for value in values if value is not None]
    n = len(known)
    if n == 0:
        return Summary(None, None, None, 0)
    # A sum of equal numbers can be off in the last bit; their mean is not.
    mean = known[0] if min(known) == max(known) else math.fsum(known) / n
    if n == 1:
        return Summary(mean, None, None, 1)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (n - 1))
    return Summary(mean, std, student_t(n - 1) * std / math.sqrt(n), n)


def paired(a: Mapping[int, float | None], b: Mapping[int, float | None]) -> Paired | None:
    """The difference a - b, paired by seed; None if no seed was measured in both."""
    differences = []
    for seed in sorted(a.keys() & b.keys()):
        first, second = a[seed], b[seed]
        if first is not None and second is not None:
            differences.append(first - second)
    summary = summarise(differences)
    if summary.mean is None:
        return None
    n = summary.n
    return Paired(summary.mean, summary.ci95, sign_flip_p(differences), smallest_p(n), n)


def sign_flip_p(differences: Sequence[float]) -> float | None:
    """The exact two-sided permutation p of paired differences under random signs.

    The share of the 2**n choices of signs whose sum is at least as far from 0 as the observed one
    (Fisher 1935, "The Design of Experiments", section 21). No p is below 2 / 2**n. None beyond
    32 differences and for none at all.
    """
    d = np.asarray(differences, dtype=np.float64)
    n = len(d)
    if n == 0 or n > MOST_SIGNS:
        return None
    # Sums that are equal on paper may differ in the last bits.
    threshold = abs(float(d.sum())) - 1e-9 * float(np.abs(d).sum())
    if threshold <= 0:
        return 1.0
    # Every sum is one of the first half plus one of the second: 2**(n/2) look-ups, not 2**n sums.
    first, second = _signed_sums(d[: n // 2]), np.sort(_signed_sums(d[n // 2 :]))
    above = len(second) - np.searchsorted(second, threshold - first, side="left")
    below = np.searchsorted(second, -threshold - first, side="right")
    hits = int(above.sum()) + int(below.sum())
    return hits / 2.0**n


def holm(ps: Sequence[float]) -> list[float]:
    """The p of m tests adjusted so that any false one among them is as rare as each says.

    The i-th smallest times m - i (counted from 0), at most 1 and no smaller than the one before
    (Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure").
    """
    adjusted, least = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda index: ps[index])):
        least = max(least, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = least
    return adjusted


def smallest_p(n: int) -> float:
    """The smallest that an exact two-sided sign-flip p can be with ``n`` pairs: 2 / 2**n."""
    return min(1.0, 2.0 ** (1 - n))


def seeds_needed(rows: int) -> int:
    """With how many pairs the smallest p, Holm-corrected over ``rows``, is significant."""
    return next(n for n in range(1, 64) if rows * smallest_p(n) <= SIGNIFICANT)


def _signed_sums(d: np.ndarray) -> np.ndarray:
    sums = np.zeros(1)
    for value in d:
        sums = np.concatenate([sums + value, sums - value])
    return sums


@cache
def student_t(degrees: int) -> float:
    """The t with P(|T| <= t) = 0.95 for whole ``degrees`` of freedom >= 1, to 1e-9 relative.

    Abramowitz & Stegun 1964, equations 26.7.3 and 26.7.4, inverted by bisection. Written out
    because importing scipy for one number takes longer than a whole comparison.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < CONFIDENCE else (low, middle)
    return math.tan(high) * math.sqrt(degrees)


def _within(theta: float, degrees: int) -> float:
    """P(|T| <= sqrt(degrees) tan(theta))."""
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = degrees % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range(2 + odd, degrees + 1, 2):
        total += term
        term *= cosine * cosine * (k - 1) / k
    return 2 / math.pi * (theta + sine * total) if odd else sine * total
