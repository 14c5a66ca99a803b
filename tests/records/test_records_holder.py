"""File systems without locks: the system itself refuses the call, as it does on such a mount."""

from __future__ import annotations

import errno
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from process_cases import ENVIRONMENT, TWO_RUNS

pytestmark = pytest.mark.commands

FLOCK = {"x86_64": 73, "aarch64": 32}
"""The number of the system call, by the processor."""

REFUSED = """
import ctypes, struct, sys

number, error = int(sys.argv[1]), int(sys.argv[2])
load, equal, give = 0x20, 0x15, 0x06  # As in linux/bpf_common.h; the call's number comes first.
allowed, refused = 0x7FFF0000, 0x00050000 | error
program = b"".join(
    struct.pack("HBBI", *line)
    for line in [
        (load, 0, 0, 0),
        (equal, 0, 1, number),
        (give, 0, 0, refused),
        (give, 0, 0, allowed),
    ]
)
lines = ctypes.create_string_buffer(program)
filters = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(lines)))
prctl = ctypes.CDLL(None, use_errno=True).prctl
assert prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert prctl(22, 2, filters, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
"""
"""Lets every ``flock`` of this process from now on fail."""

HELD = """
from pathlib import Path
from lora_cl.records.holder import is_held
print(is_held(Path(sys.argv[3])))
"""

RUN = """
from lora_cl.cli import main
sys.argv = ["lora-cl", *sys.argv[3:]]
main()
"""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in FLOCK, reason="needs Linux's filters"
)
@pytest.mark.parametrize("error", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_where_there_are_no_locks_no_run_is_done_and_a_line_says_why(
    error: str, tmp_path: Path
) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(TWO_RUNS)
    done = _without_locks(error, RUN, "run", config, "--results", tmp_path / "r", "--jobs", "0")
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if "its file system has no locks" in line]
    assert len(told) == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "SoftFileLock" not in done.stderr
    assert not list((tmp_path / "r").rglob("result.json"))
    (lock, _) = (tmp_path / "r").rglob(".lock")
    assert _without_locks(error, HELD, lock).stdout == "False\n"


def _without_locks(
    error: str, code: str, *arguments: str | Path
) -> subprocess.CompletedProcess[str]:
    numbers = (FLOCK[platform.machine()], getattr(errno, error))
    return subprocess.run(
        [sys.executable, "-c", REFUSED + code, *map(str, numbers), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=120,
    )
