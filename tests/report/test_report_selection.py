"""`compare` shows what is asked for: runs, order and columns, the same in every format."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from report_cases import FULL, JOINT, configured, write

from lora_cl.errors import ConfigError, ResultsError
from lora_cl.report import FORMATS, Selection, compare_table, comparisons, to_frame

BAD = [[0.6, None], [0.5, 0.4]]
CONTENT = {"benchmark.dataset": "sha256:" + "d" * 64, "torch": "2.15.0", "code": "ab12cd34" * 8}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two ranks of lora (85 %), ewc over lora (45 %), full (60 %), joint, and a diverged one."""
    content: dict[str, Any] = {"content": CONTENT}
    records = [
        *(configured("lora", s, rank=r, position=0, **content) for r in (4, 16) for s in (0, 1)),
        *(configured("full", s, FULL, position=1, **content) for s in (0, 1)),
        configured("joint", 0, JOINT, position=2, **content),
        configured(
            "ewc-lora", 0, BAD, method="ewc", adapter={"name": "lora", "rank": 2}, position=3,
            **content,
        ),
        configured("ewc-lora", 1, position=3, changes={"status": "diverged"}, method="ewc",
            adapter={"name": "lora", "rank": 2}, **content),
        configured("lora", 0, scenario="class", rank=4, position=0, **content),
    ]  # fmt: skip
    for one in records:
        write(tmp_path, one.result)
    return tmp_path


def rows(results: Path, **asked: Any) -> list[str]:
    """The rows, each with its scenario, in order."""
    found = comparisons([results], Selection(**asked))
    return [f"{row.scenario}: {row.label}" for one in found for row in one.rows]


TASK = ["task: lora [rank=4]", "task: lora [rank=16]", "task: full", "task: joint"]
EVERY = [*TASK, "task: ewc-lora", "class: lora"]


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        (["lora"], [*TASK[:2], "class: lora"]),
        (["joint,full"], TASK[2:]),
        (["joint", " full "], TASK[2:]),
        (["*lora"], [*TASK[:2], "task: ewc-lora", "class: lora"]),
        (["[fj]*"], TASK[2:]),
        (["*"], EVERY),
        ([], EVERY),
    ],
)
def test_methods_are_labels_or_patterns(results: Path, methods: Any, expected: Any) -> None:
    assert rows(results, methods=methods) == expected


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (["scenario=class"], ["class: lora"]),
        (["rank=4"], ["task: lora", "class: lora"]),
        (["rank=4.0", "scenario=task"], ["task: lora"]),
        (["method.rank=16", "seed=1"], ["task: lora"]),
        (["rank=16", "rank=4", "scenario=task"], TASK[:2]),
        (["adapter.rank=2"], ["task: ewc-lora"]),
        (["adapter=lora"], ["task: ewc-lora"]),
        (["status=diverged"], ["task: ewc-lora"]),
        (["method=ewc"], ["task: ewc-lora"]),
        (["label=ewc*"], ["task: ewc-lora"]),
        (["lr=1e-1"], EVERY),
        (["model.hidden=[4,4]"], EVERY),
        (["pretrain=null"], EVERY),
        (["torch=2.15.0", "code=ab12cd34", "data=dddddddd"], EVERY),
        (["adapter=-", "scenario=task"], TASK),
    ],
)
def test_where_keeps_the_runs_of_which_it_is_true(results: Path, where: Any, expected: Any) -> None:
    assert rows(results, where=where) == expected


def test_where_is_about_runs_and_averages_are_of_those(results: Path) -> None:
    (comparison,) = comparisons([results], Selection(where=["seed=1", "scenario=task"]))
    assert [row.seeds for row in comparison.rows] == [(1,), (1,), (1,), ()]
    assert {row.missing for row in comparison.rows} == {()}


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("average_accuracy", ["joint", "lora [rank=4]", "lora [rank=16]", "full", "ewc-lora"]),
        ("-average_accuracy", ["ewc-lora", "full", "lora [rank=4]", "lora [rank=16]", "joint"]),
        # The best first, and of forgetting less is better; joint has none.
        ("forgetting", ["lora [rank=4]", "lora [rank=16]", "ewc-lora", "full", "joint"]),
        ("-forgetting", ["full", "ewc-lora", "lora [rank=4]", "lora [rank=16]", "joint"]),
        ("label", ["ewc-lora", "full", "joint", "lora [rank=16]", "lora [rank=4]"]),
        ("rank", ["lora [rank=4]", "full", "joint", "ewc-lora", "lora [rank=16]"]),
        ("-method.rank", ["lora [rank=16]", "full", "joint", "ewc-lora", "lora [rank=4]"]),
        ("n_seeds", ["lora [rank=4]", "lora [rank=16]", "full", "joint", "ewc-lora"]),
    ],
)
def test_rows_are_sorted_within_their_table(results: Path, sort: str, expected: list[str]) -> None:
    expected = [f"task: {label}" for label in expected] + ["class: lora"]
    assert rows(results, sort=sort) == expected


def test_columns_are_shown_as_they_are_asked_for(results: Path) -> None:
    asked = Selection(
        columns=["forward_transfer,rank", "learning_accuracy,n_seeds,torch,peak_memory_bytes"],
        where=["scenario=task"],
    )
    lines = compare_table([results], "markdown", selection=asked).splitlines()
    (head,) = [line for line in lines if line.startswith("| method")]
    assert head == (
        "| method | forward transfer ↑ | rank | learning accuracy ↑ | n | torch | peak memory |"
    )
    assert r"| lora \[rank=4\] | - | 4 | **85.00 ± 0.00** | 2 | 2.15.0 | 123 MB |" in lines
    assert "| ewc-lora | - | 8 | 50.00 | 1 of 2 | 2.15.0 | 123 MB |" in lines
    table = compare_table([results], "table", width=50, selection=asked)
    assert max(map(len, table.splitlines())) <= 50
    latex = compare_table([results], "latex", selection=asked)
    assert latex.count(r"\begin{tabular}") == 1


def test_columns_of_json_and_csv_are_the_same_ones(results: Path) -> None:
    asked = Selection(columns=["rank", "forgetting", "code"], where=["scenario=class"])
    (row,) = json.loads(compare_table([results], "json", selection=asked))
    whose = {"experiment": "digits", "label": "lora", "method": "lora", "scenario": "class"}
    assert row == {
        **whose,
        "benchmark": "split",
        "forgetting": {"mean": 0.0, "std": None, "ci95": None, "n": 1},
        "config": {"method.rank": 4},
        "content": {"code": "ab12cd34" * 8},
    }
    text = compare_table([results], "csv", selection=asked)
    (cells,) = csv.DictReader(io.StringIO(text))
    assert cells == {
        **whose,
        "benchmark": "split",
        "config.method.rank": "4",
        "forgetting_mean": "0.0",
        "forgetting_std": "",
        "forgetting_ci95": "",
        "forgetting_n": "1",
        "content.code": "ab12cd34" * 8,
    }


def test_every_format_has_the_chosen_rows_in_the_chosen_order(results: Path) -> None:
    asked = Selection(methods=["full", "lora"], where=["scenario=task"], sort="-average_accuracy")
    places = {}
    for format in FORMATS:  # noqa: A001
        text = compare_table([results], format, selection=asked)
        assert "joint" not in text
        places[format] = list(dict.fromkeys(re.findall(r"full\b|rank=\d+", text)))
    assert len(places) == 5
    assert {tuple(found) for found in places.values()} == {("full", "rank=4", "rank=16")}


def test_json_csv_and_frame_carry_the_config(results: Path) -> None:
    by_label = {
        (row["scenario"], row["label"]): row for row in json.loads(compare_table([results], "json"))
    }
    row = by_label["task", "lora [rank=4]"]
    assert row["config"]["method.rank"] == 4
    assert row["config"]["model.hidden"] == [4, 4]
    assert row["config"]["benchmark.dataset"] == "synthetic"
    assert row["content"]["torch"] == "2.15.0"
    assert by_label["task", "ewc-lora"]["config"]["method.adapter.rank"] == 2
    cells = list(csv.DictReader(io.StringIO(compare_table([results], "csv"))))
    assert [line["config.method.rank"] for line in cells] == ["4", "16", "8", "8", "8", "4"]
    assert [line["config.method.adapter.rank"] for line in cells] == ["", "", "", "", "2", ""]
    assert {line["config.model.hidden"] for line in cells} == {"[4, 4]"}
    assert {line["content.torch"] for line in cells} == {"2.15.0"}


def test_frame_has_a_column_for_each_key() -> None:
    frame = to_frame([configured("lora", 0, rank=rank, content=CONTENT) for rank in (4, 16)])
    assert list(frame["label"]) == ["lora", "lora"]
    assert list(frame["config.method.rank"]) == [4, 16]
    assert list(frame["config.train.lr"]) == [0.1, 0.1]
    means = frame.groupby(["config.method.rank", "config.model.hidden"])["average_accuracy"].mean()
    assert list(means.index) == [(4, "[4, 4]"), (16, "[4, 4]")]
    assert list(frame["content.torch"]) == ["2.15.0"] * 2


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"methods": ["lroa"]}, "--methods lroa: is no label (did you mean 'lora'?); there are"),
        ({"methods": ["full,x*"]}, "--methods x*: is no label; there are ewc-lora, full"),
        ({"where": ["rnak=4"]}, "--where rnak: nothing here is called so (did you mean 'rank'?)"),
        ({"where": ["rank=5"]}, "--where rank=5: no run has that; there is 4, 8, 16"),
        ({"where": ["scenario=clas"]}, "no run has that (did you mean 'class'?); there is class"),
        ({"where": ["rank"]}, "--where rank: should be KEY=VALUE, such as rank=4"),
        ({"where": ["=4"]}, "--where =4: should be KEY=VALUE"),
        ({"sort": "forgeting"}, "--sort forgeting: nothing here is called so (did you mean 'forg"),
        ({"sort": "-rnak"}, "--sort rnak: nothing here is called so (did you mean 'rank'?)"),
        ({"sort": ""}, "--sort : nothing here is called so"),
        ({"columns": ["average"]}, "--columns average: nothing here is called so (did you mean"),
        ({"where": ["\x1b[2J\n=4"]}, "nothing here is called so"),
    ],
)
def test_what_is_unknown_is_refused_with_the_nearest(results: Path, asked: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compare_table([results], selection=Selection(**asked))
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


def test_what_is_known_and_never_together_is_no_table(results: Path) -> None:
    with pytest.raises(ResultsError, match=r"none of the 10 runs in .* is what is asked for"):
        comparisons([results], Selection(where=["rank=16", "scenario=class"]))
