"""Requirements are met or not, by figures that are there."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from report_cases import FULL, LORA, record
from typer.testing import CliRunner

import lora_cl
from lora_cl.cli.commands import app
from lora_cl.errors import ConfigError
from lora_cl.report import aggregate
from lora_cl.report.requirements import findings, junit, requirement

RECORDS = [record("full", 0, FULL), record("full", 1, FULL), record("lora", 0, LORA)]
TABLE = aggregate([*RECORDS, record("lora", 1, LORA, status="failed")])


def found(*texts: str) -> list[tuple[str, bool]]:
    wanted = [requirement(text) for text in texts]
    return [(one.row, not one.problem) for one in findings(TABLE, wanted)]


def test_of_the_mean_in_every_way_to_compare() -> None:
    # FULL is [[.9, None], [.5, .7]]: an average of .6, and .4 forgotten.
    told = {"<= 0.6": True, ">= 0.6": True, "== 0.6": True, "!= 0.6": False}
    told |= {"< 0.6": False, "> 0.6": False, "<0.61": True, ">5e-1": True}
    for text, met in told.items():
        assert found(f"full.average_accuracy {text}") == [("full", met)], text
    assert found("full.forgetting <= 0.3") == [("full", False)]


def test_the_last_digit_of_a_mean_decides_nothing() -> None:
    mine = [[1.0, None], [1 / 40, 11 / 40]]  # 0.15, and added up 0.15000000000000002.
    table = aggregate([record("full", 0, mine)])
    (row,) = table[0].rows
    assert row.measures["average_accuracy"].mean != 0.15
    for text, met in {
        "<= 0.15": True,
        "== 0.15": True,
        "> 0.15": False,
        ">= 0.1501": False,
    }.items():
        wanted = [requirement(f"full.average_accuracy {text}")]
        (one,) = findings(table, wanted)
        assert (not one.problem) is met, text


def test_a_row_with_failed_seeds_meets_nothing() -> None:
    (one,) = findings(TABLE, [requirement("lora.average_accuracy >= 0")])
    assert one.problem == "only 1 of 2 seeds are done"


def test_what_was_not_measured_meets_nothing() -> None:
    (one,) = findings(TABLE, [requirement("full.forward_transfer >= -1")])
    assert one.told == "full.forward_transfer is not measured; required: >= -1"


def test_a_pattern_is_of_all_rows_that_fit() -> None:
    assert found("*.learning_accuracy > 0.5") == [("full", True), ("lora", False)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "lroa.forgetting <= 0",
            "no row is called so (did you mean 'lora'?); there are full, lora",
        ),
        ("lora.forgeting <= 0", "nothing is measured as forgeting (did you mean 'forgetting'?)"),
        ("lora.forgetting <= none", "none is not a number"),
        ("lora.forgetting <= nan", "should be LABEL.MEASURE SIGN NUMBER, as lora.forgetting <= 0"),
        ("lora forgetting", "should be LABEL.MEASURE SIGN NUMBER, as lora.forgetting <= 0"),
        ("", "should be LABEL.MEASURE SIGN NUMBER, as lora.forgetting <= 0"),
    ],
)
def test_what_is_no_requirement_is_told_in_a_line(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        findings(TABLE, [requirement(text)])
    assert str(caught.value) == f"--require {text}: {told}"


def test_junit() -> None:
    wanted = [requirement("full.forgetting <= 0.3"), requirement("full.forgetting < 1")]
    suite = ElementTree.fromstring(junit(findings(TABLE, wanted)))
    assert suite.attrib == {
        "name": "lora-cl check", "tests": "2", "failures": "1", "errors": "0"
    }  # fmt: skip
    cases = [(case.get("name"), len(case)) for case in suite]
    assert cases == [("full.forgetting <= 0.3", 1), ("full.forgetting < 1", 0)]
    assert suite[0][0].get("message") == "full.forgetting is 0.4; required: <= 0.3"


def test_the_command(tmp_path: Path) -> None:
    text = """
name: t
benchmark: {name: split, dataset: {name: synthetic, classes: 4, features: 8}, tasks: 2}
model: {hidden: [8]}
methods: {lora: {rank: 2}}
"""
    lora_cl.run(lora_cl.parse_config(text, "t"), results=tmp_path, jobs=0, progress=False)
    where = ["check", str(tmp_path), "--junit", str(tmp_path / "o.xml"), "--require"]
    met = CliRunner().invoke(app, [*where, "lora.forgetting <= 0"])
    assert (met.exit_code, met.stdout) == (0, "ok  lora.forgetting <= 0: lora.forgetting is 0\n")
    failed = CliRunner().invoke(app, [*where, "lora.average_accuracy > 1"])
    assert failed.exit_code == 1
    assert failed.stdout.startswith("FAILED  lora.average_accuracy > 1: lora.average_accuracy is ")
    assert b'failures="1"' in (tmp_path / "o.xml").read_bytes()
    assert CliRunner().invoke(app, [*where, "x.forgetting > 1"]).exit_code == 2
