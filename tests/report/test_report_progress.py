from __future__ import annotations

import io
import re
import time
from types import SimpleNamespace

import pytest
from rich.console import Console

from lora_cl.records.events import EventLog, append_event
from lora_cl.report import progress
from lora_cl.report.progress import Progress, RunLabel


@pytest.fixture
def runs(tmp_path):
    labels = [
        RunLabel("digits", label, 0, tmp_path / str(i))
        for i, label in enumerate(("full", "[red]x"))
    ]
    for run in labels:
        run.folder.mkdir()
    return labels


def piped():
    return Console(file=io.StringIO(), force_terminal=False, width=40)


def terminal(width=100, height=24):
    return Console(
        file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None
    )


def learn(folder, task, tasks=2):
    append_event(folder, "task_started", task=task, name=f"task {task}")
    append_event(folder, "fit_started", task=task, fit=0, epochs=4, steps=40)
    append_event(folder, "epoch", task=task, fit=0, epoch=0, epochs=4, step=10, steps=40, loss=0.5)
    accuracies = [0.9] * (task + 1) + [None] * (tasks - task - 1)
    append_event(folder, "evaluated", task=task, accuracies=accuracies)


def begin(folder, tasks=2):
    append_event(folder, "run_started", method="m", label="l", seed=0, tasks=tasks)


def shown(progress):
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(progress._view())
    return console.file.getvalue()


def test_piped_lines(runs):
    console = piped()
    with Progress(runs, console, verbose=True) as progress:
        begin(runs[0].folder)
        learn(runs[0].folder, 0)
        progress.poll()
        progress.poll()
        learn(runs[0].folder, 1)
        progress.finished(0, "done", None)
        begin(runs[1].folder)
        progress.finished(1, "failed", "out of [bold]memory[/bold]\x1b[2J\nat once")
        progress.finished(1, "failed", "told twice")
        progress.poll()
    text = console.file.getvalue()
    lines = text.splitlines()
    assert lines[:2] == [
        "digits full seed 0: task 1 of 2 learned, accuracy 90.0 (mean 90.0)",
        "digits full seed 0: task 2 of 2 learned, accuracy 90.0 90.0 (mean 90.0)",
    ]
    assert lines[2].startswith("[1/2] digits full seed 0: done after 0.")
    assert lines[2].endswith("average accuracy 90.00 %")
    assert lines[3].startswith("[2/2] digits [red]x seed 0: failed after 0.")
    assert lines[3].endswith(": out of [bold]memory[/bold]\N{REPLACEMENT CHARACTER}[2J at once")
    assert lines[4].startswith("2 runs: 1 done, 1 failed, in ")
    assert len(lines) == 5
    assert all(c.isprintable() or c == "\n" for c in text)


def test_a_line_for_each_run_alone_unless_more_is_asked_for(runs):
    console = piped()
    with Progress(runs, console) as progress:
        begin(runs[0].folder)
        learn(runs[0].folder, 0)
        progress.poll()
        learn(runs[0].folder, 1)
        progress.finished(0, "done")
    first, last = console.file.getvalue().splitlines()
    assert first.startswith("[1/2] digits full seed 0: done after 0.")
    assert last.startswith("2 runs: 1 done, 1 not finished")


def test_a_task_of_which_nothing_was_measured_is_no_news(runs):
    console = piped()
    with Progress(runs, console, verbose=True) as progress:
        begin(runs[0].folder)
        append_event(runs[0].folder, "evaluated", task=0, accuracies=[None])
        append_event(runs[0].folder, "evaluated", task=1, accuracies=[0.5, 0.7])
        progress.poll()
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "digits full seed 0: task 2 of 2 learned, accuracy 50.0 70.0 (mean 60.0)"
    assert len(lines) == 2


def test_the_log_of_an_earlier_session_is_no_news(runs):
    begin(runs[0].folder)
    learn(runs[0].folder, 0)
    console = piped()
    with Progress(runs, console, verbose=True) as progress:
        progress.poll()
        assert console.file.getvalue() == ""
        learn(runs[0].folder, 1)
        progress.poll()
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "digits full seed 0: task 2 of 2 learned, accuracy 90.0 90.0 (mean 90.0)"
    assert lines[1].startswith("2 runs: 2 not finished")


def test_a_log_begun_anew_is_read_anew(runs):
    begin(runs[0].folder, tasks=9)
    learn(runs[0].folder, 0, tasks=9)
    console = piped()
    with Progress(runs, console, verbose=True) as progress:
        (runs[0].folder / "events.jsonl").write_text("")
        progress.poll()
        begin(runs[0].folder)
        learn(runs[0].folder, 0)
        progress.poll()
    assert "task 1 of 2 learned" in console.file.getvalue()


def test_a_terminal_shows_task_epoch_accuracies_and_the_whole(runs):
    console = terminal()
    with Progress(runs, console) as progress:
        begin(runs[1].folder)
        learn(runs[1].folder, 0)
        progress.poll()
        append_event(runs[1].folder, "task_started", task=1, name="b")
        append_event(runs[1].folder, "fit_started", task=1, fit=0, epochs=4, steps=40)
        append_event(
            runs[1].folder, "epoch", task=1, fit=0, epoch=2, epochs=4, step=30, steps=40, loss=0.1
        )
        time.sleep(0.02)
        progress.poll()
        view = shown(progress)
        (line,) = [line for line in view.splitlines() if "[red]x seed 0" in line]
        assert re.fullmatch(
            r"digits \[red\]x seed 0 +2/2 +3/4 +[\d.]+ s +90\.0 \(mean 90\.0\) *", line
        )
        assert "full" not in view
        assert "0 of 2 runs" in view
        assert " left" in view.splitlines()[-1]
        progress.finished(1, "diverged", "the loss is not finite")
        view = shown(progress)
        assert "1 of 2 runs (1 diverged)" in view
        assert "[red]x" not in view
    text = console.file.getvalue()
    assert "digits [red]x seed 0: diverged" in text
    # The cursor is hidden while it is live and comes back.
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert "2 runs: 1 not finished, 1 diverged" in text.splitlines()[-1]


def test_remaining_time_follows_the_pace(runs):
    with Progress(runs, piped()) as progress:
        begin(runs[0].folder)
        progress.poll()
        learn(runs[0].folder, 0)
        progress.poll()
        state = progress.states[0]
        assert state.began is not None
        # Half the way took 10 s, so the other half takes 10 s.
        assert state.way == 0.5
        assert state.remaining(state.began + 10) == pytest.approx(10)
        # Of two runs half of one is gone: 1.5 to go at 0.5 in 10 s.
        assert progress._remaining(progress.start + 10) == pytest.approx(30)


def test_more_runs_than_lines(tmp_path):
    runs = [RunLabel("e", f"m{i}", 0, tmp_path / str(i)) for i in range(30)]
    console = terminal(height=12)
    with Progress(runs, console) as progress:
        for run in runs:
            run.folder.mkdir()
            begin(run.folder)
        progress.poll()
        console_view = Console(file=io.StringIO(), width=100, height=12)
        console_view.print(progress._view())
    lines = console_view.file.getvalue().splitlines()
    assert len(lines) <= 12
    assert "and 23 more" in lines


@pytest.mark.parametrize(
    "line",
    [
        b"{torn\n",
        b"[1]\n",
        b'{"event": "evaluated", "accuracies": "x", "task": "y"}\n',
        b'{"event": "evaluated", "accuracies": ["[bold]", 7, null], "task": -1}\n',
        b'{"event": "epoch", "step": "a", "steps": 0}\n',
        b'{"event": "run_started", "tasks": 1e999}\n',
        b'{"event": "run_started", "time": 1%s}\n' % (b"0" * 400),
        b'{"event": "run_started", "time": 1e999}\n',
        b'{"event": "nothing known", "time": "never"}\n',
        b"\xff\xfe\n",
    ],
)
def test_a_log_may_hold_anything(runs, line):
    for console in (piped(), terminal()):
        (runs[0].folder / "events.jsonl").write_bytes(b"")
        with Progress(runs, console) as progress:
            (runs[0].folder / "events.jsonl").write_bytes(line)
            progress.poll()
            begin(runs[0].folder)
            learn(runs[0].folder, 0)
            progress.poll()
            assert progress.states[0].way == 0.5
            progress.finished(0, "done")


def test_junk_is_not_read_again_and_again(runs):
    folder = runs[0].folder
    with Progress(runs, piped()) as progress:
        (folder / "events.jsonl").write_bytes(b"junk\n" * 500)
        progress.poll()
        assert progress.states[0].log.offset == 2500
        begin(folder)
        learn(folder, 0)
        progress.poll()
        assert progress.states[0].way == 0.5
        assert progress.states[0].log.junk == 500


def test_a_closed_pipe_ends_no_run(runs):
    console = piped()
    with Progress(runs, console) as progress:
        console.file.close()
        begin(runs[0].folder)
        learn(runs[0].folder, 0)
        progress.poll()
        progress.finished(0, "done")
    assert progress.states[0].status == "done"


def test_polling_five_hundred_idle_runs_is_cheap(tmp_path):
    runs = [RunLabel("e", f"m{i}", 0, tmp_path / str(i)) for i in range(500)]
    with Progress(runs, piped()) as progress:
        start = time.perf_counter()
        for _ in range(10):
            progress.poll()
        assert time.perf_counter() - start < 1.0


@pytest.mark.parametrize(("number", "looks"), [(100, 3), (101, 2)])
def test_of_many_runs_it_looks_less_often(number, looks, tmp_path, monkeypatch):
    """A look takes as many seconds as there are runs; the second comes at once, the third later."""
    now = [0.0]
    seen = []

    def size(log):
        now[0] += 1.0
        seen.append(log.path)
        return 0

    monkeypatch.setattr(EventLog, "size", size)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0], time=time.time))
    with Progress([RunLabel("e", "full", i, tmp_path) for i in range(number)], piped()) as view:
        seen.clear()
        view.poll()
        view.poll()
        now[0] += 10.0 * number
        view.poll()
    assert len(seen) == looks * number
