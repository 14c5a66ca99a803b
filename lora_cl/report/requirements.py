"""What a table must hold: ``lora.forgetting <= 0``, met or not, for continuous integration."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from lora_cl.errors import ConfigError
from lora_cl.records.metrics import rounded
from lora_cl.report.aggregate import MEASURES, Comparison, Row
from lora_cl.text import did_you_mean, matching, one_line

FORM = re.compile(
    r"\s*(?P<label>.+)\.(?P<measure>\w+)\s*(?P<sign><=|>=|==|!=|<|>)\s*(?P<bound>[-+.\w]+)\s*"
)
SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Requirement:
    """``label`` (or a pattern), a measure, a sign and a bound, and the text that says so."""

    text: str
    label: str
    measure: str
    sign: str
    bound: float


@dataclass(frozen=True)
class Finding:
    """A requirement of one row: the mean that was found, and in words what is wrong, if it is."""

    requirement: Requirement
    row: str
    mean: float | None
    problem: str

    @property
    def told(self) -> str:
        figure = "not measured" if self.mean is None else f"{self.mean:.6g}"
        told = f"{self.row}.{self.requirement.measure} is {figure}"
        return one_line(f"{told}; {self.problem}" if self.problem else told, 400)


def requirement(text: str) -> Requirement:
    """From ``LABEL.MEASURE SIGN NUMBER``. Raises ConfigError for anything else."""
    told = f"--require {one_line(text, 100)}"
    found = FORM.fullmatch(text)
    bound = None
    if found is not None:
        try:
            bound = float(found["bound"])
        except ValueError:
            raise ConfigError(f"{told}: {one_line(found['bound'], 40)} is not a number") from None
    if found is None or bound is None or not math.isfinite(bound):
        raise ConfigError(f"{told}: should be LABEL.MEASURE SIGN NUMBER, as lora.forgetting <= 0")
    if found["measure"] not in MEASURES:
        hint = did_you_mean(found["measure"], MEASURES)
        raise ConfigError(f"{told}: nothing is measured as {found['measure']}{hint}")
    return Requirement(text.strip(), found["label"], found["measure"], found["sign"], bound)


def findings(
    comparisons: Sequence[Comparison], requirements: Sequence[Requirement]
) -> list[Finding]:
    """Each requirement of each row that it names, in every table.

    Accuracies are fractions, as in JSON. What was not measured, and a row of which runs are missing
    or failed, meets nothing. Raises ConfigError for a label that no row has.
    """
    rows = [row for one in comparisons for row in one.rows]
    labels = list(dict.fromkeys(row.label for row in rows))
    found = []
    for one in requirements:
        fitting = matching(one.label, labels)
        if not fitting:
            hint, there = did_you_mean(one.label, labels), ", ".join(map(one_line, labels))
            told = f"--require {one_line(one.text, 100)}: no row is called so{hint}"
            raise ConfigError(one_line(f"{told}; there are {there}", 900))
        found += [_finding(one, row) for row in rows if row.label in fitting]
    return found


def _finding(one: Requirement, row: Row) -> Finding:
    mean = row.measures[one.measure].mean
    problem = ""
    if not row.complete:
        wanted = len(row.seeds) + len(row.problems) + len(row.missing)
        problem = f"only {len(row.seeds)} of {wanted} seeds are done"
    elif mean is None or not SIGNS[one.sign](rounded(mean), rounded(one.bound)):
        problem = f"required: {one.sign} {one.bound:g}"
    return Finding(one, row.label, mean, problem)


def junit(found: Sequence[Finding]) -> bytes:
    """The findings as JUnit's XML: a test case for each."""
    failed = [one for one in found if one.problem]
    counts = {"tests": str(len(found)), "failures": str(len(failed)), "errors": "0"}
    suite = ElementTree.Element("testsuite", {"name": "lora-cl check", **counts})
    for one in found:
        name = {"classname": one_line(one.row), "name": one_line(one.requirement.text)}
        case = ElementTree.SubElement(suite, "testcase", name)
        if one.problem:
            ElementTree.SubElement(case, "failure", {"message": one.told})
    content: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return content
