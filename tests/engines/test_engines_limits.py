"""Fewer cores, processes, threads or files than the machine has; folders that others hold."""

from __future__ import annotations

import fcntl
import os
import platform
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from process_cases import ENVIRONMENT, TWO_RUNS, python, wait_until

from lora_cl.engines.cores import jobs_for, usable_cores
from lora_cl.records.folders import load_records
from lora_cl.records.holder import holder, noted

pytestmark = pytest.mark.commands

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "c.yaml").write_text(TWO_RUNS)
    return tmp_path / "c.yaml"


# Cores


@linux
def test_one_core_of_the_machine_has_room_for_one_job() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from lora_cl.engines.cores import jobs_for, usable_cores\n"
        "print(usable_cores(), jobs_for(1), jobs_for(2))"
    )
    assert python(code).stdout.split() == ["1", "1", "1"]


V1 = "3:cpuset:/\n2:cpu,cpuacct:/docker/ab\n1:name=systemd:/x\n"


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/a/b\n", {"a/b/cpu.max": "250000 100000"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "100000 100000"}, 1),
        ("0::/\n", {"cpu.max": "20000 100000"}, 1),
        ("0::/not/there\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/a\n", {"a/cpu.max": "max 100000"}, 8),
        ("0::/a\n", {"a/cpu.max": "what"}, 8),
        ("0::/a\n", {"a/cpu.max": "0 0"}, 8),
        (
            V1,
            {"cpu/docker/ab/cpu.cfs_quota_us": "50000", "cpu/docker/ab/cpu.cfs_period_us": "10000"},
            5,
        ),
        (
            V1,
            {"cpu,cpuacct/cpu.cfs_quota_us": "40000\n", "cpu,cpuacct/cpu.cfs_period_us": "10000\n"},
            4,
        ),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("", {}, 8),
    ],
)
def test_quotas_of_cgroups(
    groups: str,
    files: dict[str, str],
    cores: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "self" / "cgroup").write_text(groups)
    for name, content in files.items():
        file = tmp_path / "sys" / "fs" / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    assert usable_cores(tmp_path) == cores


def test_jobs_fill_the_cores_and_one_more_where_threads_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lora_cl.engines.cores.usable_cores", lambda: 8)
    assert [jobs_for(threads) for threads in (1, 2, 3, 8, 9, 100)] == [8, 5, 3, 2, 1, 1]


# Processes, threads, files

LIMITED = """
import ctypes, os, resource, sys
most = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
for capability in (21, 24):  # CAP_SYS_ADMIN, CAP_SYS_RESOURCE: with them no limit holds.
    assert ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) == 0
os.setresuid(54321, 0, 0)  # A user who has no other process that would count.
os.execv(sys.executable, [sys.executable, "-m", "lora_cl", *sys.argv[2:]])
"""


@linux
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without processes")
@pytest.mark.parametrize("most", [1, 3, 4])
def test_fewer_workers_where_no_more_can_be_started(most: int) -> None:
    """A worker is a process and a thread, whichever finds no room; the command is one more."""
    with tempfile.TemporaryDirectory() as name:  # A folder that the other user may enter.
        Path(name).chmod(0o755)
        config, results = Path(name, "c.yaml"), Path(name, "r")
        config.write_text(TWO_RUNS)
        ended = python(LIMITED, str(most), "run", config, "--results", results, "--jobs", "2")
        assert ended.returncode == 0, ended.stderr
        assert [record.status for record in load_records([results])] == ["done"] * 2
    lines = [line for line in ended.stderr.splitlines() if "no more worker" in line]
    told = [line.partition("): ")[2] for line in lines]
    alone = "going on in this process alone"
    assert told == [alone] if most == 1 else told[:1] in (["going on with 1"], [alone])
    assert "2 runs: 2 done" in ended.stderr


FEW_FILES = """
import os, resource, sys
import lora_cl.api, lora_cl.cli
from lora_cl.engines import pool
start = pool._Pool.run
def limited(self):
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 1,) * 2)
    try:
        return start(self)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
pool._Pool.run = limited
resource.setrlimit(resource.RLIMIT_NOFILE, (256, 4096))
sys.argv = ["lora-cl", *sys.argv[1:]]
lora_cl.cli.main()
"""


@linux
def test_no_descriptor_for_a_worker(config: Path) -> None:
    few = FEW_FILES.replace("+ 1,) * 2)", "+ 1, 4096))").replace("(256, 256)", "(256, 4096)")
    ended = python(few, "run", config, "--results", config.parent / "r", "--jobs", "2")
    assert ended.returncode == 0, ended.stderr
    assert "(Too many open files): going on in this process alone" in ended.stderr
    assert [record.status for record in load_records([config.parent / "r"])] == ["done"] * 2


# Folders that another process holds

HOLD = """
import fcntl, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


@linux
def test_who_holds_a_folder_is_told_and_one_interrupt_ends_the_wait(config: Path) -> None:
    """The holder is stopped, as an orphan may be; the other run is not kept waiting by it."""
    results = config.parent / "r"
    hurried = (
        "import sys; from lora_cl.engines import engine; engine.PATIENCE_SECONDS = 0.1\n"
        "import lora_cl.cli; sys.argv = ['lora-cl', *sys.argv[1:]]; lora_cl.cli.main()"
    )
    assert python(hurried, "run", config, "--results", results, "--jobs", "0").returncode == 0
    (folder,) = (record.folder for record in load_records([results]) if record.label == "full")
    hold = [sys.executable, "-c", HOLD, str(folder / ".lock")]
    again = ["run", str(config), "--results", str(results), "--jobs"]
    for jobs in ("0", "1"):
        with subprocess.Popen(hold, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            assert holder(folder / ".lock") == f"process {other.pid}"
            other.send_signal(signal.SIGSTOP)
            assert wait_until(lambda: "stopped" in holder(folder / ".lock"), 10)
            waiting = subprocess.Popen(
                [sys.executable, "-c", hurried, *again, jobs],
                stderr=subprocess.PIPE,
                text=True,
                env=ENVIRONMENT,
            )
            assert waiting.stderr is not None
            _, planned, *lines = [waiting.stderr.readline() for _ in range(4)]
            waiting.send_signal(signal.SIGINT)
            _, rest = waiting.communicate(timeout=30)
            other.kill()
        assert waiting.returncode == 130
        assert planned == "2 runs: 2 reused\n"
        assert lines[0].startswith("[1/2] tiny lora seed 0: done")
        held = f"{folder} is held by process {other.pid}, which is stopped"
        assert lines[1] == f"waiting: {held}; Ctrl-C ends the wait\n"
        assert rest == "interrupted; the same command goes on from here\n"


def test_a_lock_that_nobody_holds_or_that_is_not_there(tmp_path: Path) -> None:
    assert holder(tmp_path / "none") == "another process"
    (tmp_path / "free").write_text("")
    assert holder(tmp_path / "free") == "another process"


def test_a_holder_on_another_machine_is_told_by_its_note(tmp_path: Path) -> None:
    with noted(tmp_path):
        assert holder(tmp_path / ".lock") == f"process {os.getpid()} on {platform.node()}"
    assert holder(tmp_path / ".lock") == "another process"
    assert list(tmp_path.iterdir()) == []
    for damaged in ("", "17", "x y", "17 ", "\x00" * 400):
        (tmp_path / ".holder").write_text(damaged)
        assert holder(tmp_path / ".lock") == "another process"
    (tmp_path / ".holder").unlink()
    (tmp_path / "victim").write_text("mine")
    (tmp_path / ".holder").symlink_to(tmp_path / "victim")
    with noted(tmp_path):
        assert (tmp_path / "victim").read_text() == "mine"


@linux
def test_a_lock_of_our_own(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert holder(tmp_path / "lock") == f"process {os.getpid()}"
