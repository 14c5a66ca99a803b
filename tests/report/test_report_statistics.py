from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from lora_cl.report.statistics import Summary, paired, sign_flip_p, student_t, summarise


@pytest.mark.parametrize(
    ("degrees", "t"),
    # The printed table of Student's t, two-sided 95 %.
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (30, 2.042), (120, 1.980)],
)
def test_student_t_against_the_printed_table(degrees, t):
    assert student_t(degrees) == pytest.approx(t, abs=5e-4)


def test_student_t_against_scipy():
    degrees = [*range(1, 60), 199, 1000]
    ours = [student_t(n) for n in degrees]
    assert ours == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-9)
    assert len(ours) == 61


def test_summary_by_hand():
    # Mean 2; squares 1 + 0 + 1, so variance 2 / 2 = 1; t(2) = 4.30265, half width t / sqrt(3).
    summary = summarise([1.0, None, 2.0, 3.0])
    assert (summary.mean, summary.std, summary.n) == (2.0, 1.0, 3)
    assert summary.ci95 == pytest.approx(2.48414, abs=1e-5)


def test_summary_of_little():
    assert summarise([]) == Summary(None, None, None, 0)
    assert summarise([None]) == Summary(None, None, None, 0)
    assert summarise([0.25]) == Summary(0.25, None, None, 1)


def test_equal_values_have_no_spread_at_all():
    assert summarise([0.1] * 7) == Summary(0.1, 0.0, 0.0, 7)


def test_permutation_p_for_three_seeds_by_hand():
    # |+-1 +-2 +-3|: the sums are 6, 4, 2, 0, 0, -2, -4, -6.
    assert sign_flip_p([1.0, 2.0, 3.0]) == 2 / 8
    # 1 + 2 - 3 = 0: every sum is at least as far out.
    assert sign_flip_p([1.0, 2.0, -3.0]) == 1.0
    # 3 + 2 - 1 = 4: of the eight, 6, 4, -4 and -6 are as far out.
    assert sign_flip_p([3.0, 2.0, -1.0]) == 4 / 8


def test_permutation_p_against_all_signs():
    rng = np.random.default_rng(1)
    cases = 0
    for n in range(1, 9):
        d = [float(x) for x in rng.integers(-4, 9, n) / 7]
        sums = [
            abs(math.fsum(s * x for s, x in zip(signs, d, strict=True)))
            for signs in itertools.product((1, -1), repeat=n)
        ]
        observed = abs(math.fsum(d))
        assert sign_flip_p(d) == sum(s >= observed - 1e-12 for s in sums) / 2**n
        cases += 1
    assert cases == 8


def test_permutation_p_at_its_limits():
    assert sign_flip_p([0.0, 0.0]) == 1.0
    assert sign_flip_p([]) is None
    assert sign_flip_p([0.1] * 20) == 2 / 2**20
    assert sign_flip_p([0.1] * 33) is None


def test_differences_are_paired_by_seed():
    a = {0: 0.9, 1: 0.8, 2: 0.7, 5: 0.1, 6: None}
    b = {0: 0.8, 1: 0.6, 2: 0.4, 4: 0.9, 6: 0.5}
    pair = paired(a, b)
    assert pair is not None
    # .1, .2, .3: mean .2, std .1, half width 4.30265 * .1 / sqrt(3)
    assert pair.mean == pytest.approx(0.2, abs=1e-12)
    assert pair.ci95 == pytest.approx(0.248414, abs=1e-6)
    assert (pair.p, pair.smallest_p, pair.n) == (0.25, 0.25, 3)
    assert paired({0: 0.5}, {1: 0.5}) is None
