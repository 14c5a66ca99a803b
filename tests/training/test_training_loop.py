from __future__ import annotations

import pytest

from lora_cl.training.loop import step_at


@pytest.mark.parametrize(
    ("share", "budget", "step"),
    [(0.0, 20, 0), (1.0, 20, 20), (0.5, 20, 10), (2 / 3, 20, 13), (0.001, 20, 1), (1.0, 1, 1)],
)
def test_where_a_share_of_the_steps_ends(share: float, budget: int, step: int) -> None:
    assert step_at(share, budget) == step


def test_parts_that_meet_add_up() -> None:
    sums = 0
    for budget in (1, 2, 3, 20, 94, 2000):
        for share in (0.0, 0.01, 1 / 3, 0.5, 2 / 3, 0.99, 1.0):
            first = step_at(share, budget) - step_at(0.0, budget)
            second = step_at(1.0, budget) - step_at(share, budget)
            assert first + second == budget
            assert first >= (share > 0)
            assert second >= 0
            sums += 1
    assert sums == 42
