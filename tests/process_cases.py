"""The command: in this process, or as one of its own with all that it starts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from typer.testing import CliRunner

from lora_cl.cli.commands import app

TWO_RUNS = """
name: tiny
benchmark: {name: split, dataset: {name: synthetic, classes: 4}, tasks: 2}
model: {hidden: [8]}
methods: {full: , lora: {rank: 2}}
"""
"""A config whose runs take a moment."""

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "TERM": "dumb"}


def ask(*arguments: str | Path) -> tuple[int, str, str]:
    """A command in this process: exit code, stdout, stderr; an exception would be raised."""
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert "Traceback" not in result.stdout + result.stderr
    return result.exit_code, result.stdout, result.stderr


def python(code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """``code`` in an interpreter of its own, to its end."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=120,
    )


def on_terminal(width: int, columns: str | None, *arguments: str | Path) -> str:
    """What a command prints on a terminal ``width`` wide, without the codes for color."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    environment = {key: value for key, value in ENVIRONMENT.items() if key != "COLUMNS"}
    environment |= {"TERM": "xterm"} | ({"COLUMNS": columns} if columns else {})
    with subprocess.Popen(
        [sys.executable, "-m", "lora_cl", *map(str, arguments)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    ):
        os.close(theirs)
        written = b""
        with suppress(OSError):  # As a terminal ends on Linux.
            while piece := os.read(ours, 65_536):
                written += piece
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;]*m", "", written.decode().replace("\r\n", "\n"))


@contextmanager
def command(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """`lora-cl ARGUMENTS` in a session of its own; whatever is left of it afterwards is killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lora_cl", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        for pid in session_of(process.pid):
            with _gone_is_fine():
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def finished(*arguments: str | Path, timeout: float = 120.0) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the whole command."""
    with command(*arguments) as process:
        out, err = process.communicate(timeout=timeout)
        return process.returncode, out, err


def session_of(leader: int) -> list[int]:
    """The processes of a session that are alive; zombies are not."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with _gone_is_fine():
                state, _, _, session = _stat(entry)
                if session == leader and state not in "ZX":
                    found.append(int(entry.name))
    return found


def children_of(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with _gone_is_fine():
                state, ppid, _, _ = _stat(entry)
                if ppid == parent and state not in "ZX":
                    found.append(int(entry.name))
    return found


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """The forks of the command, or, where a server makes them, that server's children."""
    children = children_of(process.pid)
    forks = [child for child in children if words_of(child) == words_of(process.pid)]
    return forks or [worker for server in children for worker in children_of(server)]


def words_of(pid: int) -> bytes:
    """The command line of a process; none of one that is gone."""
    with _gone_is_fine():
        return (Path("/proc") / str(pid) / "cmdline").read_bytes()
    return b""


def _stat(entry: Path) -> tuple[str, int, int, int]:
    state, ppid, group, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
    return state, int(ppid), int(group), int(session)


_gone_is_fine = partial(suppress, FileNotFoundError, ProcessLookupError)


def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def full_pipe() -> tuple[int, int]:
    """The reading and the writing end of a pipe that takes no more."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    return reader, writer


def events_size(results: Path) -> int:
    return sum(path.stat().st_size for path in results.rglob("events.jsonl"))
