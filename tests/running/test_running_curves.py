"""`learning_curve:` how fast a task is learned, and that looking changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lora_cl.errors import ConfigError
from lora_cl.records.metrics import reached
from lora_cl.running.runner import Outcome, Where, run_one
from lora_cl.testing.interrupting import cut_and_compare
from lora_cl.testing.runs import one_run, outcome

HELD_OUT = "validation=0.25"
CURVE = "learning_curve=3"


def learned(method: str, scenario: str, place: Path, *overrides: str) -> dict[str, Any]:
    run = one_run(method, scenario, HELD_OUT, *overrides)
    assert run is not None
    ended = run_one(run, Where(place))
    assert ended == Outcome("done"), ended.message
    return outcome(place / run.folder)


def test_the_first_point_near_the_last_one_by_hand() -> None:
    curve = [[0, 0.1], [10, 0.5], [20, 0.86], [30, 0.8], [40, 0.9]]
    assert reached(curve) == [20, 0.86]  # 0.95 * 0.9 = 0.855
    assert reached(curve, 0.5) == [10, 0.5]
    assert reached(curve[:1]) == [0, 0.1]
    assert reached([]) is None


METHODS = ("full", "joint", "lora", "packnet", "pnn", "replay", "inflora", "adalora")
PRIVATE = ("lora", "packnet", "pnn", "adalora")


@pytest.mark.parametrize("scenario", ["task", "class"])
@pytest.mark.parametrize("method", METHODS)
def test_looking_changes_no_bit_and_ends_at_the_accuracy_on_record(
    method: str, scenario: str, tmp_path: Path
) -> None:
    plain = learned(f"{method}: {{}}", scenario, tmp_path / "plain")
    watched = learned(f"{method}: {{}}", scenario, tmp_path / "watched", CURVE)
    assert watched["files"].keys() == plain["files"].keys()
    for measured in ("accuracy_matrix", "validation_matrix"):
        assert watched["result"][measured] == plain["result"][measured]
    curves = watched["result"]["learning_curves"]
    assert plain["result"]["learning_curves"] is None
    assert len(curves) == 3
    compared = 0
    for task, curve in enumerate(curves):
        if method == "joint":
            assert curve is None
            continue
        # 30 samples in batches of 16, two epochs: four steps.
        assert [step for step, _ in curve] == [0, 1, 3, 4]
        if scenario == "task" or method not in PRIVATE:
            assert curve[-1][1] == watched["result"]["validation_matrix"][task][task]
            compared += 1
    cost = watched["result"]["cost"]
    if method == "joint":
        assert cost["steps_to_95"] is None
    else:
        assert compared in (0, 3)
        steps = [reached(curve)[0] for curve in curves]  # type: ignore[index]
        assert cost["steps_to_95"] == pytest.approx(sum(steps) / 3)


def test_cut_off_anywhere_the_curve_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = one_run("lora: {rank: 2}", "task", HELD_OUT, CURVE)
    assert run is not None
    cut_and_compare(run, tmp_path, monkeypatch)


def test_it_needs_samples_held_out() -> None:
    with pytest.raises(ConfigError, match=r"learning_curve.*give validation: 0\.1 beside it"):
        one_run("lora: {}", "task", CURVE)
