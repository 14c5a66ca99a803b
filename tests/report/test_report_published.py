"""Ours against published numbers: the standard errors by hand, and what passes."""

from __future__ import annotations

import json

import pytest
from report_cases import record

from lora_cl.report import aggregate
from lora_cl.report.published import Published, Table, summary, verdicts, verification

# Average accuracies .7, .8 and .9: mean .8, deviation .1, standard error .1/sqrt(3).
OURS = [[0.7, 0.7], [0.8, 0.8], [0.9, 0.9]]


def table(**cells: Published) -> Table:
    return Table("digits", "A. Author 2022, doi:1", cells)


def held(n: int = 3, **cells: Published):
    records = [record("full", seed, [[last[0], None], last]) for seed, last in enumerate(OURS[:n])]
    asked = table(**cells)
    (found,) = verdicts(aggregate(records), [asked])
    return asked, found


def test_the_standard_error_is_of_both() -> None:
    # sqrt(.01/3 + .0016) = .07024; .8 - .9 is 1.42 of them.
    _, (one,) = held(full=Published(0.9, 0.04, 20))
    assert one.standard_error == pytest.approx(0.070238, abs=1e-6)
    assert one.apart == pytest.approx(-1.42373, abs=1e-5)
    assert (one.verdict, one.weak) == ("pass", True)


def test_without_their_standard_error_they_spread_as_ours_do() -> None:
    # .1/sqrt(3) and .1/sqrt(12): sqrt(.01/3 + .01/12) = .064550; without n, .057735.
    _, (one,) = held(full=Published(0.93, None, 12))
    assert one.standard_error == pytest.approx(0.0645497, abs=1e-6)
    assert (one.apart, one.verdict) == (pytest.approx(-2.01395, abs=1e-5), "fail")
    _, (one,) = held(full=Published(0.9, None, None))
    assert one.standard_error == pytest.approx(0.0577350, abs=1e-6)


@pytest.mark.parametrize(
    ("mean", "verdict"), [(0.915, "pass"), (0.916, "fail"), (0.685, "pass"), (0.684, "fail")]
)
def test_two_standard_errors_on_either_side_pass(mean: float, verdict: str) -> None:
    # Averages .7, .9 and .8: a standard error of .057735, twice which is .11547.
    records = [record("full", s, [[0.8, None], [0.8, 0.8 + d]]) for s, d in enumerate((-0.2, 0.2))]
    records += [record("full", 2, [[0.8, None], [0.8, 0.8]])]
    (found,) = verdicts(aggregate(records), [table(full=Published(mean, 0.0, 20))])
    assert found[0].standard_error == pytest.approx(0.057735, abs=1e-6)
    assert found[0].verdict == verdict


def test_one_seed_is_no_verdict() -> None:
    asked, found = held(1, full=Published(0.7, 0.01, 20))
    assert (found[0].verdict, found[0].apart) == ("open", None)
    assert summary([found]) == "0 of 1 within two standard errors, 1 open"
    (one,) = json.loads(verification([asked], [found], "json"))
    assert (one["verdict"], one["standard_error"]) == ("open", None)


def test_no_spread_at_all_is_equal_or_is_not() -> None:
    records = [record("full", seed, [[0.5, None], [0.5, 0.5]]) for seed in range(2)]
    cells = {"full": Published(0.5, 0.0, 20)}
    (found,) = verdicts(aggregate(records), [table(**cells)])
    assert (found[0].apart, found[0].verdict) == (0.0, "pass")
    asked = table(full=Published(0.6, 0.0, 20))
    (found,) = verdicts(aggregate(records), [asked])
    assert found[0].verdict == "fail"
    assert json.loads(verification([asked], [found], "json"))[0]["standard_errors"] is None


def test_what_is_told() -> None:
    cells = {
        "full": Published(0.7, None, 20, note="their *batches* are other ones"),
        "lora": Published(0.5),
    }
    asked, found = held(**cells)
    assert [one.row.label for one in found] == ["full"]
    text = verification([asked], [found])
    assert text.startswith("digits · task-incremental · ours against published\n")
    (line,) = [line for line in text.splitlines() if line.startswith("full ")]
    assert line.split() == [
        *("full", "80.00", "±", "5.77", "3", "70.00", "20"),
        *("10.00", "6.19", "1.6", "pass,", "weak"),
    ]
    assert "full: their *batches* are other ones" in text
    assert "full: no standard error was published" in text
    assert "Published: A. Author 2022, doi:1" in text
    assert text.endswith("1 of 1 within two standard errors; weak: 1 of fewer than 5 seeds\n")
    marked = verification([asked], [found], "markdown")
    assert "| full | 80.00 ± 5.77 | 3 | 70.00 | 20 | 10.00 | 6.19 | 1.6 | pass, weak |" in marked
    assert r"\begin{tabular}" in verification([asked], [found], "latex")
