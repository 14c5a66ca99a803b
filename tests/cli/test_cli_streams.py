"""What is printed arrives in any encoding, and where nobody listens the command says so or ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from process_cases import ENVIRONMENT, ask, full_pipe, python

from lora_cl.records.folders import load_records

pytestmark = pytest.mark.commands

CONFIG = """
name: tiny
benchmark: {name: split, dataset: {name: synthetic, classes: 4}, tasks: 2}
model: {hidden: [8]}
methods: {full: , lora: {rank: 2}}
seeds: 2
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("streams")
    (place / "c.yaml").write_text(CONFIG)
    assert ask("run", place / "c.yaml", "--results", place / "r", "--jobs", "0")[0] == 0
    return place


def shell(place: Path, line: str, **variables: str) -> tuple[int, str, str]:
    """A line for bash in which ``lora-cl`` is this one: exit code, stdout and stderr."""
    line = f'lora-cl() {{ "{sys.executable}" -m lora_cl "$@"; }}; {line}'
    done = subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        errors="replace",
        env={**ENVIRONMENT, **variables},
        cwd=place,
        timeout=120,
    )
    assert "Traceback" not in done.stdout + done.stderr
    return done.returncode, done.stdout, done.stderr


def test_a_table_in_an_encoding_that_lacks_its_signs_stands_as_straight(place: Path) -> None:
    whole = shell(place, "lora-cl compare r", PYTHONIOENCODING="utf-8")[1].splitlines()
    for encoding in ("ascii", "cp1252"):
        code, _, err = shell(place, "lora-cl compare r > f", PYTHONIOENCODING=encoding)
        assert (code, err) == (0, "")
        lines = (place / "f").read_bytes().decode(encoding).splitlines()
        assert len(lines) == len(whole) >= 8
        assert [len(line) for line in lines] == [len(line) for line in whole]
        assert any("^" in line for line in lines)
        assert any((" +-" if encoding == "ascii" else " ± ") in line for line in lines)


def test_a_plain_locale(place: Path) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code, out, err = shell(place, "lora-cl compare r", **plain)
    assert (code, err) == (0, "")
    assert out.isascii()


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("lora-cl run c.yaml --results r --jobs 1 >&- 2>&-", 0, ""),
        ("lora-cl run c.yaml --results r --jobs 1 2>/dev/full <&-", 0, ""),
        ("lora-cl compare r >&-", 1, "error: stdout: cannot be written: it is closed\n"),
        ("lora-cl compare r >&- 2>&-", 1, ""),
        ("lora-cl compare r > /dev/full", 1, "error: stdout: cannot be written: No space left"),
        ("lora-cl --help > /dev/full", 1, "error: stdout: cannot be written: No space left"),
        ("lora-cl --help >&-", 0, ""),
        ("lora-cl schema | head -1; exit ${PIPESTATUS[0]}", None, ""),
        ("lora-cl compare nowhere 2>&-", 2, ""),
    ],
)
def test_nobody_listens(line: str, code: int | None, said: str, place: Path) -> None:
    ended, _, err = shell(place, line)
    assert ended == code or (code is None and ended in (0, 1))
    assert err.startswith(said)
    assert err.count("\n") == bool(said)


def test_no_file_of_ours_gets_the_place_of_a_closed_stream() -> None:
    code = (
        "import os; os.close(0); os.close(1)\n"
        "from lora_cl.streams import occupy_standard_descriptors\n"
        "occupy_standard_descriptors()\n"
        "opened = os.open('/dev/null', os.O_RDONLY)\n"
        "os.write(2, str(opened).encode())"
    )
    assert int(python(code).stderr) > 2


def test_forced_colours_put_no_live_view_into_a_file(place: Path) -> None:
    line = "lora-cl run c.yaml --results new --jobs 1 2> log"
    assert shell(place, line, FORCE_COLOR="1", TERM="xterm", TTY_COMPATIBLE="1")[0] == 0
    log = (place / "log").read_text()
    assert "\x1b" not in log
    ended, following = log.splitlines()[-2:]
    assert ended.startswith("4 runs: 4 done")
    assert following == "next: lora-cl compare new/tiny"


def test_a_reader_who_never_reads_stops_no_run(place: Path) -> None:
    reader, writer = full_pipe()
    results = place / "unread"
    process = subprocess.Popen(
        [sys.executable, "-m", "lora_cl", "run", "c.yaml", "--results", results, "--jobs", "0"],
        stderr=writer,
        env=ENVIRONMENT,
        cwd=place,
    )
    os.close(writer)
    assert process.wait(timeout=120) == 0
    os.close(reader)
    assert [record.status for record in load_records([results])] == ["done"] * 4
