"""Hand-made matrices; every expected number is worked out in the comment beside it."""

from __future__ import annotations

import time

import numpy as np
import pytest

from lora_cl.records import metrics

N = None
# Task 0: learned at .9, then .6, ends at .7. Task 1: learned at .8, ends at .5. Task 2: ends at .9.
FALLING = [[0.9, N, N], [0.6, 0.8, N], [0.7, 0.5, 0.9]]
# Task 0 gets better later: learned at .5, peaks at .6 before the end, ends at .8.
RISING = [[0.5, N, N], [0.6, 0.7, N], [0.8, 0.7, 0.9]]
JOINT = [[N, N, N], [N, N, N], [0.9, 0.8, 0.7]]
SINGLE = [[0.75]]


@pytest.mark.parametrize(
    ("measure", "falling", "rising"),
    [
        # (.7 + .5 + .9) / 3 and (.8 + .7 + .9) / 3
        (metrics.average_accuracy, 0.7, 0.8),
        # (.9 + (.6 + .8) / 2 + .7) / 3 and (.5 + .65 + .8) / 3
        (metrics.average_incremental_accuracy, 2.3 / 3, 0.65),
        # (.9 + .8 + .9) / 3 and (.5 + .7 + .9) / 3
        (metrics.learning_accuracy, 2.6 / 3, 0.7),
        # ((max(.9, .6) - .7) + (.8 - .5)) / 2 and ((max(.5, .6) - .8) + (.7 - .7)) / 2
        (metrics.forgetting, 0.25, -0.1),
        # ((.9 - .7) + (.8 - .5)) / 2 and ((.5 - .8) + 0) / 2
        (metrics.forgetting_first, 0.25, -0.15),
        # as falling's forgetting; the best of rising is the last row, for both tasks
        (metrics.forgetting_max, 0.25, 0.0),
        # ((.7 - .9) + (.5 - .8)) / 2 and ((.8 - .5) + 0) / 2
        (metrics.backward_transfer, -0.25, 0.15),
    ],
)
def test_measures_by_hand(measure, falling, rising):
    assert measure(FALLING) == pytest.approx(falling, abs=1e-12)
    assert measure(RISING) == pytest.approx(rising, abs=1e-12)


def test_forgetting_variants_differ_where_a_task_peaks_in_between():
    # Task 0: .5, then .9, then .6. Chaudhry: .9 - .6; first - last: .5 - .6.
    peak = [[0.5, N, N], [0.9, 0.4, N], [0.6, 0.4, 0.4]]
    assert metrics.forgetting(peak) == pytest.approx(0.15, abs=1e-12)
    assert metrics.forgetting_first(peak) == pytest.approx(-0.05, abs=1e-12)
    assert metrics.forgetting_max(peak) == pytest.approx(0.15, abs=1e-12)


def test_accuracies_on_unlearned_tasks_do_not_count_as_forgotten():
    # Task 1 reached .99 before it was learned; only .8 -> .5 is forgetting.
    early = [[0.9, 0.99], [0.9, 0.5]]
    assert metrics.forgetting(early) == 0.0
    deep = [[0.9, 0.99, 0.0], [0.9, 0.8, 0.0], [0.9, 0.5, 0.9]]
    assert metrics.forgetting(deep) == pytest.approx((0.0 + 0.3) / 2, abs=1e-12)


def test_forward_transfer():
    # j = 1: R[0, 1] - b_1 = .6 - .5; j = 2: R[1, 2] - b_2 = .4 - .5.
    matrix = [[0.9, 0.6, 0.1], [0.9, 0.9, 0.4], [0.9, 0.9, 0.9]]
    assert metrics.forward_transfer(matrix, [0.0, 0.5, 0.5]) == pytest.approx(0.0, abs=1e-12)
    assert metrics.forward_transfer(matrix, [N, 0.2, 0.2]) == pytest.approx(0.3, abs=1e-12)
    assert metrics.forward_transfer(matrix, [0.0, 0.5, N]) is None
    assert metrics.forward_transfer(matrix, None) is None
    assert metrics.forward_transfer(FALLING, [0.1, 0.1, 0.1]) is None
    with pytest.raises(ValueError, match="3 untrained accuracies"):
        metrics.forward_transfer(matrix, [0.5])


def test_intransigence():
    # ((.9 - .9) + (.8 - .8) + (.7 - .9)) / 3
    assert metrics.intransigence(FALLING, JOINT) == pytest.approx(-0.2 / 3, abs=1e-12)
    assert metrics.intransigence(JOINT, JOINT) is None
    with pytest.raises(ValueError, match="3 and 1 tasks"):
        metrics.intransigence(FALLING, SINGLE)


def test_intransigence_of_the_last_task():
    # .7 - .9
    assert metrics.last_task_intransigence(FALLING, JOINT) == pytest.approx(-0.2, abs=1e-12)
    assert metrics.last_task_intransigence(JOINT, FALLING) == pytest.approx(0.2, abs=1e-12)
    with pytest.raises(ValueError, match="3 and 1 tasks"):
        metrics.last_task_intransigence(FALLING, SINGLE)


def test_joint_training_has_only_an_average_accuracy():
    assert metrics.measures(JOINT, [0.1, 0.1, 0.1]) == {
        "average_accuracy": pytest.approx(0.8, abs=1e-12),
        "average_incremental_accuracy": None,
        "learning_accuracy": None,
        "forgetting": None,
        "backward_transfer": None,
        "forward_transfer": None,
    }
    assert metrics.forgetting_first(JOINT) is None
    assert metrics.forgetting_max(JOINT) is None


def test_one_task_has_nothing_to_forget():
    assert metrics.measures(SINGLE, [0.5]) == {
        "average_accuracy": 0.75,
        "average_incremental_accuracy": 0.75,
        "learning_accuracy": 0.75,
        "forgetting": None,
        "backward_transfer": None,
        "forward_transfer": None,
    }
    assert metrics.forgetting_first(SINGLE) is None
    assert metrics.forgetting_max(SINGLE) is None


def test_one_missing_entry_makes_none_of_what_needs_it_and_of_nothing_else():
    # Without R[1, 0] the maximum is unknown, first and last are not.
    gap = [[0.9, N, N], [N, 0.8, N], [0.7, 0.5, 0.9]]
    assert metrics.forgetting(gap) is None
    assert metrics.average_incremental_accuracy(gap) is None
    assert metrics.backward_transfer(gap) == pytest.approx(-0.25, abs=1e-12)
    assert metrics.average_accuracy([[0.9, N], [N, 0.5]]) is None


def test_nan_in_an_array_is_none_in_a_list():
    array = np.array(FALLING, dtype=float)
    assert np.isnan(array).sum() == 3
    assert metrics.measures(array) == metrics.measures(FALLING)


def test_an_accuracy_kept_bit_for_bit_is_forgotten_by_exactly_nothing():
    accuracies = [0.1 * 3, 1 / 3, 0.987]
    kept = [[accuracies[j] if j <= i else N for j in range(3)] for i in range(3)]
    assert metrics.forgetting(kept) == 0.0
    assert metrics.backward_transfer(kept) == 0.0


@pytest.mark.parametrize("bad", [[], [[]], [[0.5, 0.5]], [0.5], [[[0.5]]]])
def test_not_a_square_matrix(bad):
    with pytest.raises(ValueError, match="T x T"):
        metrics.average_accuracy(bad)


def test_ragged_rows_are_refused():
    with pytest.raises(ValueError, match="inhomogeneous"):
        metrics.average_accuracy([[0.5], [0.5, 0.5]])


def test_a_thousand_tasks_by_the_formula_and_quickly():
    rng = np.random.default_rng(0)
    r = rng.random((1000, 1000))
    start = time.perf_counter()
    forgotten = metrics.forgetting(r)
    assert time.perf_counter() - start < 1.0
    by_loop = [max(r[i, j] for i in range(j, 999)) - r[999, j] for j in range(999)]
    assert len(by_loop) == 999
    assert forgotten == pytest.approx(sum(by_loop) / 999, abs=1e-12)
