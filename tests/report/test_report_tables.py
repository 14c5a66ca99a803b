from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import time

import pytest
from report_cases import FULL, JOINT, LORA, configured, record, result, write

from lora_cl.errors import ResultsError
from lora_cl.report import COLUMNS, aggregate, compare_table, render
from lora_cl.report.tables import ACROSS
from lora_cl.text import count, duration, one_line, percent, seconds_of, size

BETTER = [[0.9, None], [0.5, 0.8]]
FIELDS = {
    "experiment", "label", "method", "scenario", "benchmark", "n_seeds", "needs_task_id",
    "isolated", "classifier", "accuracy_matrix_mean",
}  # fmt: skip
SUMMARISED = {
    "average_accuracy", "average_incremental_accuracy", "learning_accuracy", "forgetting",
    "backward_transfer", "forward_transfer", "trained_params_per_task", "added_params_per_task",
    "total_params", "stored_bytes", "train_seconds", "eval_seconds", "peak_memory_bytes",
    "steps_to_95", "seconds_to_95", "probe_before", "probe_lost",
    "intransigence", "last_task_intransigence",
}  # fmt: skip
ERROR = {
    "kind": "failed",
    "message": "out of | [bold]memory[/bold] & 5 % <b>",
    "task": 1,
    "step": 2,
}
NASTY = ["[red]x[/red]", "a|b", "a_b%&#$^~{}\\", "=1+1", "*star*", ":smile:", "x\x1b[31m\nred"]


def render_records(records, format, **options):  # noqa: A002
    return render(aggregate(records), format, **options)


def lines_with(text, word):
    return [line for line in text.splitlines() if word in line]


def markdown_rows(text):
    rows = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}


@pytest.fixture
def records():
    """full (.6 twice), lora (.85), joint (.9), and ewc, of whose two runs one failed."""
    return [
        record("full", 0, FULL),
        record("full", 1, FULL),
        record("lora", 0, LORA),
        record("lora", 1, LORA),
        record("joint", 0, JOINT),
        record("joint", 1, JOINT),
        record("ewc", 0, [[0.99, None], [0.99, 0.99]]),
        record("ewc", 1, FULL, status="failed", error=ERROR),
    ]


def test_json_is_what_the_design_says(records):
    rows = json.loads(render_records(records, "json"))
    assert [row["label"] for row in rows] == ["full", "lora", "joint", "ewc"]
    for row in rows:
        assert row.keys() >= FIELDS | SUMMARISED
        assert all(row[name].keys() == {"mean", "std", "ci95", "n"} for name in SUMMARISED)
    full, _, joint, ewc = rows
    assert full["average_accuracy"] == {"mean": 0.6, "std": 0.0, "ci95": 0.0, "n": 2}
    assert full["accuracy_matrix_mean"] == FULL
    assert full["train_seconds"]["mean"] == 75.0
    assert joint["forgetting"] == {"mean": None, "std": None, "ci95": None, "n": 0}
    assert joint["accuracy_matrix_mean"] == JOINT
    assert ewc["n_seeds"] == 1
    assert ewc["average_accuracy"] == {"mean": 0.99, "std": None, "ci95": None, "n": 1}
    assert [(p["seed"], p["status"]) for p in ewc["problems"]] == [(1, "failed")]


def test_validation_is_averaged_beside_the_test_set_and_shown_when_asked_for():
    """(.6 + .4) / 2 = .5 and (.7 + .5) / 2 = .6: mean .55, deviation .1 / sqrt(2)."""
    records = [
        record("a", 0, LORA, validation_matrix=[[0.8, None], [0.6, 0.4]]),
        record("a", 1, LORA, validation_matrix=[[0.8, None], [0.7, 0.5]]),
        record("joint", 0, JOINT, validation_matrix=[[None, None], [0.5, None]]),
        record("without", 0, LORA, validation_matrix=None),
        record("older", 0, LORA),
    ]
    name = "average_validation_accuracy"
    found = {row["label"]: row[name] for row in json.loads(render_records(records, "json"))}
    assert found["a"]["mean"] == pytest.approx(0.55, abs=1e-12)
    assert found["a"]["std"] == pytest.approx(0.1 / 2**0.5, abs=1e-12)
    assert found["a"]["n"] == 2
    nothing = {"mean": None, "std": None, "ci95": None, "n": 0}
    assert found["joint"] == found["without"] == found["older"] == nothing
    header = COLUMNS[name].header
    asked = markdown_rows(render_records(records, "markdown", columns=[COLUMNS[name]]))
    assert asked["a"][header] == "55.00 ± 7.07"
    assert asked["without"][header] == "-"
    assert header not in markdown_rows(render_records(records, "markdown"))["a"]


def test_what_was_not_trained_alike_is_told_below_the_table():
    own = {"epochs": 3, "lr": 0.1}
    records = [configured(label, 0) for label in ("full", "ewc")]
    assert not lines_with(render_records(records, "table"), "trained alike")
    records += [configured("lora", 0, train=own), configured("dora", 0, train=own | {"lr": 0.01})]
    for format_ in ("table", "markdown"):
        lines = lines_with(render_records(records, format_), "Not trained alike")
        assert [line[line.index("Not") :] for line in lines] == [
            "Not trained alike: epochs: 1 for full, ewc; 3 for the others.",
            "Not trained alike: lr: 0.01 for dora; 0.1 for the others.",
        ]
    # Where the names of rows tell it, nothing is said twice.
    records = [configured("lora", 0), configured("lora", 0, train={"epochs": 1, "lr": 0.01})]
    text = render_records(records, "table")
    assert "lora [lr=0.01]" in text
    assert "trained alike" not in text


def test_csv_holds_raw_numbers(records):
    full, lora, joint, ewc = csv.DictReader(io.StringIO(render_records(records, "csv")))
    assert float(full["average_accuracy_mean"]) == 0.6
    assert float(full["average_accuracy_std"]) == 0.0
    assert float(lora["stored_bytes_mean"]) == 4096000
    assert joint["forgetting_mean"] == ""
    assert joint["forgetting_n"] == "0"
    assert (ewc["n_seeds"], ewc["n_failed"], ewc["n_missing"]) == ("1", "1", "0")
    assert ewc["problems"].startswith("seed 1 failed: out of |")


def test_csv_texts_are_no_formulas():
    labels = ["=HYPERLINK(1)", "+1", "-1", "@x", "\t=1", 'a"b,c']
    records = [record(label, 0, FULL) for label in labels]
    rows = list(csv.DictReader(io.StringIO(render_records(records, "csv"))))
    assert [row["label"] for row in rows] == [
        "'=HYPERLINK(1)", "'+1", "'-1", "'@x", "'=1", 'a"b,c'
    ]  # fmt: skip
    # A negative number stays one.
    assert float(rows[0]["backward_transfer_mean"]) == pytest.approx(-0.4, abs=1e-12)


def test_markdown_numbers_and_best(records):
    rows = markdown_rows(render_records(records, "markdown"))
    assert list(rows) == ["full", "lora", "joint ‡", "ewc"]
    assert rows["lora"]["average accuracy ↑"] == "**85.00 ± 0.00**"
    assert rows["full"]["average accuracy ↑"] == "60.00 ± 0.00"
    assert rows["lora"]["forgetting ↓"] == "0.00 ± 0.00"
    # Neither the reference nor the incomplete row competes, though both are more accurate.
    assert rows["joint ‡"]["average accuracy ↑"] == "90.00 ± 0.00"
    assert rows["joint ‡"]["forgetting ↓"] == "-"
    assert rows["ewc"]["average accuracy ↑"] == "99.00"
    assert rows["ewc"]["n"] == "1 of 2"
    assert rows["full"]["n"] == "2"
    assert rows["full"]["trained per task"] == "1.23M"
    assert rows["full"]["added per task"] == "500"
    assert rows["full"]["total params"] == "2.35M"
    assert rows["full"]["stored"] == "4.10 MB"
    assert rows["full"]["training time"] == "1m 15s"


def test_ties_are_both_best_and_only_accuracies_have_a_best():
    """Who has learned little has little to forget: 20 % kept to the last bit is not good."""
    nothing = [[0.2, None], [0.2, 0.2]]
    records = [record("a", 0, LORA), record("b", 0, LORA), record("c", 0, BETTER)]
    records.append(record("d", 0, nothing))
    rows = markdown_rows(render_records(records, "markdown"))
    shown = {
        "average accuracy ↑": ["**85.00**", "**85.00**", "65.00", "20.00"],
        "learning accuracy ↑": ["**85.00**", "**85.00**", "**85.00**", "20.00"],
        "forgetting ↓": ["0.00", "0.00", "40.00", "0.00"],
        "backward transfer ↑": ["0.00", "0.00", "-40.00", "0.00"],
    }
    for header, cells in shown.items():
        assert [rows[x][header] for x in "abcd"] == cells
    starred = {name for name, column in COLUMNS.items() if column.starred}
    assert starred == {
        "average_accuracy",
        "average_incremental_accuracy",
        "learning_accuracy",
        "average_validation_accuracy",
    }


def test_one_row_alone_is_not_the_best_of_anything():
    assert "**" not in render_records([record("a", 0, LORA), record("j", 0, JOINT)], "markdown")


@pytest.mark.parametrize("format", ["table", "markdown", "latex"])
def test_failed_and_missing_runs_are_told(records, format):  # noqa: A002
    text = render_records([*records, record("full", 2, FULL)], format)
    (failed,) = lines_with(text, "ewc: failed: seed 1")
    assert "task 1, step 2" in failed
    assert lines_with(text, "ewc: missing: seed 2")
    assert lines_with(text, "lora: missing: seed 2")
    assert not lines_with(text, "full: missing")
    assert "3" in text


@pytest.mark.parametrize(
    ("format", "mark"), [("table", "†"), ("markdown", "†"), ("latex", r"$^\dagger$")]
)
def test_being_told_the_task_id_is_marked(format, mark):  # noqa: A002
    told = record("lora", 0, LORA, scenario="class", needs_task_id=True)
    others = [record("a", 0, FULL, scenario="class"), record("b", 0, BETTER, scenario="class")]
    text = render_records([told, *others], format)
    assert lines_with(text, f"lora {mark}")
    assert lines_with(text, "task id, which this scenario withholds")
    assert "class-incremental" in text
    if format == "markdown":
        rows = markdown_rows(text)
        assert rows["lora †"]["average accuracy ↑"] == "85.00"
        assert rows["b"]["average accuracy ↑"] == "**65.00**"
    plain = render_records([record("lora", 0, LORA, needs_task_id=True)], format)
    assert mark not in plain


def test_the_router_has_its_own_table():
    routing = {"router": "entropy", "accuracy_matrix_oracle": LORA, "router_accuracy": LORA}
    records = [record("lora", seed, FULL, scenario="class", routing=routing) for seed in (0, 1)]
    text = render_records(records, "markdown")
    row = "| lora | entropy | 85.00 ± 0.00 | 60.00 ± 0.00 | 85.00 ± 0.00 |"
    assert row in text.splitlines()
    assert "router" not in render_records([record("lora", 0, FULL)], "table")


def test_details_only_when_asked_for(records):
    records.append(record("adalora", 0, LORA, details={"ranks": [8, 4]}))
    records.append(record("adalora", 1, LORA, details={"ranks": [8, 5]}))
    records.append(record("pnn", 0, LORA, details={"lateral": 9}))
    records.append(record("pnn", 1, LORA, details={"lateral": 9}))
    for format in ("table", "csv", "json"):  # noqa: A001
        assert "ranks" not in render_records(records, format)
        assert "ranks" in render_records(records, format, details=True)
    text = render_records(records, "table", details=True)
    assert lines_with(text, 'adalora, seed 0: {"ranks": [8, 4]}')
    assert lines_with(text, 'adalora, seed 1: {"ranks": [8, 5]}')
    assert len(lines_with(text, 'pnn, every seed: {"lateral": 9}')) == 1
    rows = {row["label"]: row for row in json.loads(render_records(records, "json", details=True))}
    assert rows["adalora"]["details"] == {"0": {"ranks": [8, 4]}, "1": {"ranks": [8, 5]}}


def test_details_tell_paired_differences_and_how_small_p_can_be():
    records = [record("a", seed, LORA) for seed in range(3)]
    records += [record("b", seed, [[0.9, None], [0.5, 0.6 + seed / 10]]) for seed in range(3)]
    text = render_records(records, "table", details=True)
    # .55, .6, .65 against .85: -30, -25, -20; std 5, half width 4.30265 * 5 / sqrt(3) = 12.42.
    (line,) = lines_with(text, "b − a")
    assert line.strip() == "b − a: -25.00 ± 12.42, n = 3, p = 0.25 (cannot be below 0.25)"


NUMBERS = ["60.00 ± 0.00", "85.00 ± 0.00 *", "-40.00 ± 0.00", "1.23M", "4.10 MB", "1m 15s"]


@pytest.mark.parametrize(("width", "tables"), [(40, 4), (60, 3), (80, 2), (120, 2), (200, 1)])
def test_no_digit_is_lost_at_any_width(records, width, tables):
    text = render_records(records, "table", width=width)
    assert max(map(len, text.splitlines())) <= width
    for number in NUMBERS:
        assert number in text
    assert "…" not in text
    assert len(lines_with(text, "method")) == tables
    # Every table has every name, and every column stands once.
    assert len(lines_with(text, "lora ")) >= tables
    for word in ("forgetting", "stored", "learning"):
        assert len(re.findall(word, text)) == 1


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_long_names_are_folded_and_leave_room_for_numbers(records, width):
    label = "lora [rank=8, adapter.rank=4, lr=0.01]"
    text = render_records([*records, record(label, 0, LORA)], "table", width=width)
    assert max(map(len, text.splitlines())) <= width
    for number in NUMBERS:
        assert number in text
    first = [line[:38].split("  ")[0] for line in text.splitlines()]
    assert "lora[rank=8,adapter.rank=4,lr=0.01]" in "".join("".join(first).split())


def test_a_terminal_too_narrow_for_any_column_breaks_lines_but_loses_nothing(records):
    records.append(record("a-very-long-label-" * 5, 0, LORA))
    text = render_records(records, "table", width=20)
    for number in NUMBERS:
        assert number in text
    # Twelve characters of a name and a number: no wider than it has to be.
    assert max(map(len, text.splitlines())) <= 30


def test_escape_codes_only_with_color(records):
    plain = render_records(records, "table")
    assert "\x1b" not in plain
    assert lines_with(plain, "85.00 ± 0.00 *")
    colored = render_records(records, "table", color=True, width=100)
    assert "\x1b[1m85.00 ± 0.00\x1b[0m" in colored
    assert " *" not in colored


def test_what_differs_besides_the_options_is_told_and_does_not_compete():
    own = {"differs": {"classifier": "trained per task"}}
    records = [record("a", 0, LORA, details=own), record("b", 0, FULL), record("c", 0, BETTER)]
    for format in ("table", "markdown", "latex"):  # noqa: A001
        text = render_records(records, format)
        assert lines_with(text, "a: classifier: trained per task")
        assert lines_with(text, "more than method and options")
    rows = markdown_rows(render_records(records, "markdown"))
    assert rows["a §"]["average accuracy ↑"] == "85.00"
    assert rows["c"]["average accuracy ↑"] == "**65.00**"
    # Where all rows have it they do not differ.
    alike = [record(label, 0, LORA, details=own) for label in "ab"]
    text = render_records(alike, "markdown")
    assert "classifier" not in text
    assert text.count("**85.00**") == 4


def test_one_table_per_experiment():
    records = [record("full", 0, FULL), record("full", 0, LORA, experiment="other")]
    for format in ("table", "markdown", "latex"):  # noqa: A001
        text = render_records(records, format)
        assert len(lines_with(text, "average")) == 2
        assert lines_with(text, "digits")
        assert lines_with(text, "other")


@pytest.mark.parametrize("label", NASTY)
def test_labels_print_literally_and_steer_nothing(label):
    records = [record(label, 0, FULL), record(label, 1, FULL, status="failed", error=ERROR)]
    shown = label.replace("\n", " ").replace("\x1b", "\N{REPLACEMENT CHARACTER}")
    table = render_records(records, "table")
    assert shown in table
    assert "out of | [bold]memory[/bold] & 5 % <b>" in table
    for format in ("table", "markdown", "latex", "csv", "json"):  # noqa: A001
        assert "\x1b" not in render_records(records, format, details=True)
    assert json.loads(render_records(records, "json"))[0]["label"] == label


def test_markdown_escapes():
    rows = markdown_rows(
        render_records([record("a|b <i> *x* shared_private _y_", 0, FULL)], "markdown")
    )
    assert list(rows) == [r"a\|b &lt;i&gt; \*x\* shared_private \_y\_"]


def test_latex_escapes_and_booktabs():
    text = render_records([record(r"a_b%&#$^~{}\ [x]", 0, FULL), record("[y]--", 0, FULL)], "latex")
    assert r"a\_b\%\&\#\$\textasciicircum{}\textasciitilde{}\{\}\textbackslash{} {[}x{]} & " in text
    # After a line break a bracket would be the break's argument.
    assert lines_with(text, r"{[}y{]}-{}- & ")
    assert "60.00" in text
    assert lines_with(text, "$-$40.00")
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert len(lines_with(text, rule)) == 2
    assert r"\uparrow" in text
    assert text.isascii()
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and "shortstack" not in line]
    assert [row.replace(r"\&", "").count("&") for row in rows] == [5, 5, 5, 5]


def test_latex_has_a_table_across_scenarios():
    records = [
        *(record("lora", seed, LORA) for seed in (0, 1)),
        *(record("lora", seed, FULL, scenario="class") for seed in (0, 1)),
        record("only", 0, FULL, scenario="class"),
    ]
    *tables, across = render_records(records, "latex").split("% needs")[1:]
    assert len(tables) == 2
    assert r"\label{tab:digits-average-accuracy-by-scenario}" in across
    assert r"lora & 85.00 $\pm$ 0.00 & 60.00 $\pm$ 0.00 \\" in across
    assert r"only & - & 60.00 \\" in across
    assert ACROSS not in render_records(records[:2], "latex")
    assert ACROSS not in render_records(
        [*records[:2], record("x", 0, FULL, experiment="y")], "latex"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles_and_fits_a_column(records, tmp_path):
    hostile = [record(label, 0, FULL, scenario="class") for label in NASTY if label.isprintable()]
    long = record("a-label-of-very-many-letters [rank=4, alpha=8]", 0, FULL)
    text = render_records([*records, long, *hostile], "latex", details=True)
    document = [r"\documentclass[twocolumn]{article}", r"\usepackage{booktabs,graphicx}"]
    document += [r"\begin{document}", text, r"\end{document}"]
    (tmp_path / "t.tex").write_text("\n".join(document))
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "t.pdf").stat().st_size > 1000
    assert not re.findall(r"^Overfull .*alignment.*$", done.stdout, re.M)
    assert "multiply defined" not in done.stdout


def test_unknown_format():
    with pytest.raises(ValueError, match="table, markdown, latex, csv, json"):
        render([], "html")


def test_folders_on_disk(tmp_path):
    write(tmp_path, result("full", 0, FULL))
    write(tmp_path, result("lora", 0, LORA))
    (write(tmp_path, result("lora", 1, LORA)) / "result.json").write_text(
        '{"schema_version": 1, "st'
    )
    (write(tmp_path, result("full", 1, FULL)) / "result.json").unlink()
    future = write(tmp_path, result("pnn", 0, LORA))
    (future / "result.json").write_text(json.dumps(result("pnn", 0, LORA) | {"schema_version": 2}))
    text = compare_table([tmp_path])
    assert lines_with(text, "lora: unreadable: seed 1")
    assert lines_with(text, "full: unfinished: seed 1")
    (unreadable,) = lines_with(text, "pnn: unreadable: seed 0")
    assert "version 2" in unreadable
    rows = {row["label"]: row for row in json.loads(compare_table([tmp_path], "json"))}
    assert rows["full"]["average_accuracy"]["mean"] == 0.6
    assert rows["pnn"]["average_accuracy"]["mean"] is None


def test_no_runs_is_an_error(tmp_path):
    with pytest.raises(ResultsError, match="no runs in"):
        compare_table([tmp_path])


def test_neither_torch_nor_pandas_is_imported_to_compare(tmp_path):
    write(tmp_path, result("full", 0, FULL))
    code = (
        "import sys, pathlib, lora_cl.report, lora_cl.report.progress, lora_cl.records.metrics\n"
        "print(lora_cl.report.compare_table([pathlib.Path(sys.argv[1])], 'json'))\n"
        "print([m for m in ('torch', 'pandas', 'scipy', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert '"label": "full"' in done.stdout


def test_five_hundred_folders_are_compared_quickly(tmp_path):
    ten = [[0.9 if j <= i else None for j in range(10)] for i in range(10)]
    for k in range(500):
        write(tmp_path, result(f"m{k // 5}", k % 5, ten))
    start = time.perf_counter()
    text = compare_table([tmp_path], width=80)
    assert time.perf_counter() - start < 8.0
    assert len(lines_with(text, "90.00 ± 0.00")) == 100


def test_units():
    assert [percent(x) for x in (0.98765, -1e-9, 1.0, -0.1)] == [
        "98.77",
        "0.00",
        "100.00",
        "-10.00",
    ]
    numbers = (0, 7, 999, 999.4, 1000, 47850, 999_999, 1_234_567, 2.5e13)
    told = ["0", "7", "999", "999", "1.00k", "47.9k", "1.00M", "1.23M", "25.0T"]
    assert [count(x) for x in numbers] == told
    assert [size(x) for x in (12, 4096, 1.5e9)] == ["12 B", "4.10 kB", "1.50 GB"]
    seconds = (0.0, 3.214, 42.12, 59.99, 250, 7499)
    assert [duration(x) for x in seconds] == [
        "0.00 s",
        "3.21 s",
        "42.1 s",
        "1m 00s",
        "4m 10s",
        "2h 04m",
    ]


def test_one_line():
    assert one_line("a\n b\x1b[0m\u202e\ud800\x00") == "a b�[0m���"
    assert one_line("x" * 300, limit=10) == "x" * 9 + "…"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3h55m", 14_100.0),
        ("90s", 90.0),
        ("90", 90.0),
        ("1h 30m", 5400.0),
        ("1h2m3s", 3723.0),
        ("0s", 0.0),
        ("", None),
        ("3x", None),
        ("-5s", None),
        ("1.5h", None),
        ("5s3h", None),
        ("٣h", None),
    ],
)
def test_times_that_people_write(text: str, seconds: float | None) -> None:
    assert seconds_of(text) == seconds
