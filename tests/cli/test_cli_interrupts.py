"""Ctrl-C ends the command with a line, whatever it is doing; from its first line on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from process_cases import ENVIRONMENT, full_pipe, wait_until

from lora_cl.cli.interrupts import leave_at_once, listen

pytestmark = pytest.mark.commands

SLOW = "import time; open({begun!r}, 'w').close(); time.sleep(60)"
LATER = "the same command goes on from here"


@pytest.mark.parametrize(
    ("module", "arguments", "number", "said"),
    [
        ("typer", ["--help"], signal.SIGINT, "interrupted\n"),
        ("typer", ["--help"], signal.SIGTERM, "interrupted\n"),
        ("torch", ["run", "c.yaml", "--jobs", "0"], signal.SIGINT, "interrupted\n"),
        ("torch", ["validate", "c.yaml"], signal.SIGINT, f"interrupted; {LATER}\n"),
    ],
)
def test_while_it_imports(
    module: str, arguments: list[str], number: int, said: str, tmp_path: Path
) -> None:
    """A module in the place of a slow one says when it is imported, and takes its time."""
    begun = tmp_path / "begun"
    (tmp_path / f"{module}.py").write_text(SLOW.format(begun=str(begun)))
    (tmp_path / "c.yaml").write_text("name: c\nbenchmark: {name: split, dataset: digits}\n")
    paths = [str(tmp_path), *filter(None, [ENVIRONMENT.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, "-m", "lora_cl", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert wait_until(begun.exists, 60)
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (130, said)


def test_who_ignores_interrupts_goes_on_ignoring_them() -> None:
    """As under nohup, or in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        changed = listen(leave_at_once)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert changed.keys() == {signal.SIGTERM}
    finally:
        signal.signal(signal.SIGTERM, changed[signal.SIGTERM])
        signal.signal(signal.SIGINT, before)


CONFIG = """
name: long
benchmark: {name: split, dataset: {name: synthetic, classes: 4}, tasks: 2}
model: {hidden: [8]}
train: {epochs: 100000}
methods: {full: , lora: }
"""


def test_nobody_reads_stderr_and_one_interrupt_is_enough(tmp_path: Path) -> None:
    """The pipe is full before the command begins."""
    config, results = tmp_path / "c.yaml", tmp_path / "r"
    config.write_text(CONFIG)
    reader, writer = full_pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "lora_cl", "run", config, "--results", results, "--jobs", "1"],
        stderr=writer,
        env=ENVIRONMENT,
    )
    os.close(writer)
    assert wait_until(lambda: list(results.rglob("events.jsonl")), 60)
    process.send_signal(signal.SIGINT)
    start = time.monotonic()
    assert process.wait(timeout=30) == 130
    assert time.monotonic() - start < 10  # Some tenths; the tests may share the machine.
    os.close(reader)
