"""The page of many runs: whole in itself, every number right, foreign text as text."""

from __future__ import annotations

import html
import math
import re
import statistics
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from page_cases import HOSTILE, LOSES, STEADY, seeds
from report_cases import JOINT, record, result, write

from lora_cl.errors import ConfigError
from lora_cl.report import COLUMNS, aggregate, comparisons
from lora_cl.report.aggregate import MEASURES
from lora_cl.report.explained import MEANINGS
from lora_cl.report.page import report_html
from lora_cl.report.page.sections import section
from lora_cl.text import short_label

NOT_CLOSED = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """What is in a page: its tags, what they refer to, the cells of its tables, its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.lines: list[list[str]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in NOT_CLOSED:
            self.open.append(tag)
        if tag == "tr":
            self.lines.append([])
        if tag in ("td", "th"):
            self.lines[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.lines[-1][-1] += data
        if not self.open or self.open[-1] != "style":
            self.text.append(data)

    def said(self) -> str:
        return " ".join(" ".join(self.text).split())


def page_of(*places: Path) -> str:
    return report_html(comparisons(places), "lora-cl report x", "1.2.3")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two methods with three seeds, a reference, and one whose runs failed."""
    better = [
        [[min(1.0, x + d) if x else x for x in line] for line in STEADY] for d in (0, 0.05, 0.1)
    ]
    seeds(tmp_path, "keeps", better, isolated=True)
    seeds(tmp_path, "loses", [LOSES] * 3)
    write(tmp_path, result("all", 0, JOINT, benchmark="split", hash="ab" * 8))
    error = {"kind": "failed", "message": "no <memory> left", "task": 1, "step": 2}
    write(tmp_path, result("dead", 0, STEADY, status="failed", error=error, hash="cd" * 8))
    return tmp_path


def test_the_numbers_are_those_of_the_runs(runs: Path) -> None:
    page = Page(page_of(runs))
    (line,) = [cells for cells in page.lines if cells[0] == "keeps" and len(cells) > 5]
    means = [(0.9 + 0.8 + 0.7) / 3 + d for d in (0, 0.05, 0.1)]
    means[2] = (1.0 + 0.9 + 0.8) / 3
    mean, std = statistics.mean(means), statistics.stdev(means)
    half = 4.302652729911275 * std / math.sqrt(3)  # Student's t, 2 degrees of freedom
    assert line[1] == f"{100 * mean:.2f} ± {100 * std:.2f}"
    assert line[2] == f"{100 * (mean - half):.2f} to {100 * (mean + half):.2f}"
    assert line[3:7] == ["0.00 ± 0.00", "0.00 ± 0.00", line[1], "3"]
    (line,) = [cells for cells in page.lines if cells[0] == "loses" and len(cells) > 5]
    assert line[1] == "50.00 ± 0.00"
    # Of task 0 0.9 - 0.1, of task 1 0.9 - 0.5.
    assert line[3:6] == ["60.00 ± 0.00", "-60.00 ± 0.00", "90.00 ± 0.00"]


def test_the_story_is_of_the_numbers(runs: Path) -> None:
    (comparison,) = comparisons([runs])
    first, second, third = section(comparison, 1).story
    assert first.startswith("keeps has the highest average accuracy of the rows that compete, 85.")
    assert "over 3 seeds" in first
    assert "35.00 points ahead of loses" in first
    assert "p = 0.25, the smallest that 3 seeds allow" in first
    assert second == (
        "It forgets nothing, by construction and checked; loses, which forgets most, loses 60.00."
    )
    assert third.startswith("It stores 4.10 MB and adds 500 parameters per task")


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing(runs: Path) -> None:
    page = Page(page_of(runs))
    names = {tag for tag, _ in page.tags}
    assert {"svg", "table", "figure", "style"} <= names
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    looked, used = 0, set()
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("href", "xlink:href", "src", "style", "clip-path"):
                looked += 1
                assert "//" not in str(value)
                used |= {"".join(name) for name in re.findall(r"^#(.+)|url\(#(.+?)\)", str(value))}
    assert looked > 50
    there = [str(attributes["id"]) for _, attributes in page.tags if "id" in attributes]
    assert used <= set(there)


def test_the_same_runs_give_the_same_bytes(runs: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from lora_cl.report import comparisons;"
        "from lora_cl.report.page import report_html;"
        "found = comparisons([Path(sys.argv[1])]);"
        "sys.stdout.write(report_html(found, 'lora-cl report x', '1.2.3'))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(runs)], capture_output=True, timeout=120
    )
    assert done.stderr == b""
    assert done.stdout.decode() == page_of(runs)


def test_foreign_text_is_text() -> None:
    plain = Page(
        report_html(aggregate([record("one", 0, STEADY), record("two", 0, LOSES)]), "x", "1")
    )
    hostile = []
    for i, text in enumerate(HOSTILE):
        about = {"experiment": HOSTILE[0], "provenance": {"versions": {text: text}, "device": text}}
        hostile.append(record(text, 0, STEADY, hash=f"{i:08x}", **about))
        error = {"kind": "x", "message": text, "task": 0, "step": 0}
        failed = {"status": "failed", "error": error, "hash": f"{i:08x}", **about}
        hostile.append(record(text, 1, STEADY, **failed))
    page = Page(report_html(aggregate(hostile), HOSTILE[1], "1", HOSTILE))
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in plain.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    said, cells = page.said(), [cell for line in page.lines for cell in line]
    drawn = [" ".join(text.split()) for text in page.text]
    for text in HOSTILE:
        shown = " ".join(text.split())
        assert cells.count(shown) >= 3
        assert said.count(shown) >= 6
        assert short_label(shown) in drawn


def test_what_failed_is_told_with_its_reason(runs: Path) -> None:
    page = Page(page_of(runs))
    assert ["dead", "0", "failed", "no <memory> left (task 1, step 2)"] in page.lines


def test_every_measure_is_explained() -> None:
    assert set(MEASURES) <= set(MEANINGS) <= set(COLUMNS)
    text = html.unescape(report_html([], "x", "1"))
    for name in MEANINGS:
        assert COLUMNS[name].header in text


def test_of_many_rows_the_best_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_cl.report.page.sections.MOST_DRAWN", 2)
    for i in range(5):
        value = 0.5 + 0.01 * i
        seeds(tmp_path, f"m{i}", [[[value, None], [value, value]]])
    (comparison,) = comparisons([tmp_path])
    found = section(comparison, 1)
    assert [row.label for row in found.rows] == ["m3", "m4"]
    assert found.not_drawn == 3


@pytest.mark.parametrize(("module", "words"), [("matplotlib", "plots need"), ("jinja2", "reports")])
def test_what_is_missing_is_named(module: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"{words}.*: pip install 'lora-cl\[report\]'"):
        report_html([], "x", "1")
