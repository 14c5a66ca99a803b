"""Pictures in a terminal: at any width, without color, piped; and what is under way."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from page_cases import HOSTILE, LOSES, STEADY, log, seeds
from process_cases import ask, command, on_terminal, wait_until
from report_cases import record, result, write
from rich.cells import cell_len

from lora_cl.records.events import append_event
from lora_cl.records.holder import is_held
from lora_cl.report import aggregate
from lora_cl.report.grids import bar, grid, spark
from lora_cl.report.showing import show_comparisons
from lora_cl.report.status import standing

LONG = """
name: long
benchmark: {name: split, dataset: {name: synthetic, classes: 4}, tasks: 2}
model: {hidden: [8]}
train: {epochs: 1000000, batch_size: 8}
methods: {full: }
"""


def test_bars_and_curves() -> None:
    assert bar(0.5, 4) == "██  "
    assert bar(1.0, 4) == "████"
    assert bar(2.0, 4) == "████"
    assert bar(1 / 32, 4) == "▏   "
    assert spark([0.0, 0.5, 1.0, None, 0.99]) == "▁▅█ █"


def test_a_grid_says_its_numbers_or_its_heights() -> None:
    assert [line.plain for line in grid([[0.999, None], [0.5, 0.7]])] == ["100     ", " 50  70 "]
    assert [line.plain for line in grid([[0.999, 0.5]], wide=True)] == [" 99.9  50.0 "]
    many = grid([[j / 99 for j in range(100)]] * 100)
    assert len(many) == 40
    assert {len(line.plain) for line in many} == {40}
    assert many[0].plain.startswith("▁")
    assert many[0].plain.endswith("█")


@pytest.mark.parametrize("width", [60, 80, 200])
def test_nothing_is_wider_than_the_terminal(width: int, tmp_path: Path) -> None:
    seeds(tmp_path, "keeps", [STEADY] * 2)
    seeds(tmp_path, "loses-very-much-and-has-a-name-to-say-so", [LOSES] * 2)
    text = on_terminal(width, None, "show", tmp_path)
    assert max(map(cell_len, text.splitlines())) <= width
    for number in ("80.00", "50.00", "4.10 MB", " 90  80  70", " 10  50  90"):
        assert number in text
    assert "█" in text


def test_one_run_is_shown_whole(tmp_path: Path) -> None:
    seeds(tmp_path, "loses", [LOSES])
    (folder,) = tmp_path.glob("*/*/seed*")
    code, out, err = ask("show", folder)
    assert (code, err) == (0, "")
    assert out.startswith("digits · loses · seed 0\ndone\n")
    assert "       3   10.0  50.0  90.0\n" in out
    assert "       1  █▅▁  90.00 to 10.00\n" in out
    assert "training time: 1m 15s" in out


def test_a_run_that_is_not_done_is_shown_as_far_as_it_came(tmp_path: Path) -> None:
    folder = tmp_path / "digits" / "slow" / "seed0-0123abcd"
    folder.mkdir(parents=True)
    append_event(folder, "run_started", tasks=3)
    append_event(folder, "evaluated", task=0, accuracies=[0.75])
    append_event(folder, "evaluated", task=1, accuracies=[0.5, 0.25])
    out = ask("show", folder)[1]
    assert out.splitlines()[1] == "unfinished"
    assert "       2   50.0  25.0\n" in out
    assert "slow seed 0  stopped" in ask("show", tmp_path)[1]


def test_foreign_text_steers_no_terminal() -> None:
    hostile = (*HOSTILE, "\x1b[31mred", "[bold]x[/bold]")
    runs = [record(label, 0, STEADY, hash=f"{i:08x}") for i, label in enumerate(hostile)]
    text = show_comparisons(aggregate(runs), 200, color=False)
    assert "\x1b" not in text
    assert "[bold]x[/bold]" in text
    assert text.count("█") > len(hostile)


def test_status_tells_who_runs_and_what_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds(tmp_path, "keeps", [STEADY] * 2)
    error = {"kind": "failed", "message": "no memory", "task": 1, "step": 2}
    write(tmp_path, result("dead", 0, STEADY, status="failed", error=error, hash="cd" * 8))
    folder = tmp_path / "digits" / "slow" / "seed0-0123abcd"
    folder.mkdir(parents=True)
    now = time.time()
    monkeypatch.setattr("lora_cl.report.status.time", SimpleNamespace(time=lambda: now))
    with (folder / "events.jsonl").open("w") as file:
        file.write(f'{{"time": {now - 10}, "event": "run_started", "tasks": 4}}\n')
        file.write(f'{{"time": {now - 1}, "event": "evaluated", "task": 0, "accuracies": [0.5]}}\n')
    code, out, err = ask("status", tmp_path)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "digits: 1 failed, 2 done, 1 stopped"
    assert "dead seed 0  failed: no memory (task 1, step 2)" in out
    assert "slow seed 0  stopped 1.00 s ago, task 2 of 4; accuracy 50.0" in out
    assert "a stopped run goes on with the same `lora-cl run`" in out
    (folder / ".lock").write_text("")
    with (folder / ".lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert is_held(folder / ".lock")
        out = ask("status", tmp_path)[1]
    # A quarter of the way in 9 seconds: 27 more.
    assert f"running in process {os.getpid()}, task 2 of 4, about 27.0 s left" in out
    assert "those running: about 27.0 s left at the pace so far" in out
    assert not is_held(folder / ".lock")
    assert not is_held(folder / "nowhere")
    assert standing(folder).left is None


def test_a_run_that_waits_for_its_turn_names_whom_it_waits_for(tmp_path: Path) -> None:
    """Two processes of one parent hold two runs; one computes, and the other waits."""
    ends = {"busy": "while True: pass", "idle": "time.sleep(60)"}
    children = {}
    for number, (label, end) in enumerate(ends.items()):
        folder = tmp_path / "digits" / label / f"seed0-{number:08x}"
        folder.mkdir(parents=True)
        line = f'{{"time": {time.time() - 10}, "event": "run_started", "tasks": 4}}\n'
        (folder / "events.jsonl").write_text(line)
        lock = folder / ".lock"
        code = f"import fcntl, time; f = open({str(lock)!r}, 'w'); fcntl.flock(f, 2); {end}"
        if end.startswith("while"):
            code = code.replace("; while", "\nwhile")
        children[label] = subprocess.Popen([sys.executable, "-c", code])
    try:
        assert wait_until(lambda: ask("status", tmp_path)[1].startswith("digits: 2 running"), 20)
        told = f"waiting for its turn after busy seed 0 in process {children['busy'].pid}"
        assert wait_until(lambda: told in " ".join(ask("status", tmp_path)[1].split()), 20)
        assert "waiting for its turn after idle" not in ask("status", tmp_path)[1]
    finally:
        for child in children.values():
            child.kill()
            child.wait()
    out = ask("status", tmp_path)[1]
    assert out.startswith("digits: 2 stopped")
    assert "waiting" not in out


def test_status_of_a_run_that_really_runs(tmp_path: Path) -> None:
    (tmp_path / "long.yaml").write_text(LONG)
    results = tmp_path / "r"
    with command("run", tmp_path / "long.yaml", "--results", results, "--jobs", "0"):
        assert wait_until(lambda: '"epoch"' in logged(results), 60)
        out = ask("status", results)[1]
    assert out.startswith("long: 1 running\n")
    assert "task 1 of 2, epoch " in out
    assert wait_until(lambda: ask("status", results)[1].startswith("long: 1 stopped\n"), 20)


def logged(results: Path) -> str:
    return "".join(path.read_text() for path in results.rglob("events.jsonl"))


def test_watching_what_is_over_ends_at_once(tmp_path: Path) -> None:
    seeds(tmp_path, "keeps", [STEADY])
    log(next(tmp_path.glob("*/*/seed*")), 1, 1.0)
    assert ask("status", tmp_path, "--watch") == ask("status", tmp_path)
    assert ask("show", tmp_path, "--watch") == ask("show", tmp_path)
    assert ask("status", tmp_path)[1] == "digits: 1 done\n"
