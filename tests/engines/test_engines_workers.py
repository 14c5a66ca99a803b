"""How worker processes are made: a fork where that is whole, else by a server."""

from __future__ import annotations

import ctypes
import json
import signal
import sys
from pathlib import Path

import pytest
from process_cases import ENVIRONMENT, python

from lora_cl.engines import workers
from lora_cl.testing.runs import TINY, outcome

pytestmark = pytest.mark.commands

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks here")

SCRIPT = """
import json, sys, threading
from pathlib import Path
from lora_cl import api
from lora_cl.engines import pool
from lora_cl.config import parse_config

kinds = []
made = pool.start_method
pool.start_method = lambda *given: kinds.append(made(*given)) or kinds[-1]
text, results, threads = sys.argv[1:]
halt = threading.Event()
if int(threads):
    threading.Thread(target=halt.wait).start()
records = api.run(
    parse_config(text, "test.yaml"), results=results, jobs=2, device="cpu", progress=False
)
halt.set()
print(json.dumps([kinds, [str(record.folder) for record in records]]))
"""


@linux
def test_a_process_with_threads_does_not_fork_and_the_bytes_are_the_same(tmp_path: Path) -> None:
    text = TINY.format(scenario="task", method="full: {}, lora: {rank: 2}")
    found, kinds = [], []
    for threads in (0, 1):
        ended = python(SCRIPT, text, tmp_path / str(threads), str(threads))
        assert ended.returncode == 0, ended.stderr
        made, folders = json.loads(ended.stdout)
        kinds.append(made)
        found.append([outcome(Path(folder)) for folder in folders])
        assert len(folders) == 2
    assert kinds == [["fork", "fork"], ["forkserver", "forkserver"]]
    assert found[0] == found[1]


FAULTS = """
import resource, sys
import numpy as np
from lora_cl.engines.workers import keep_memory

if int(sys.argv[1]):
    keep_memory()
np.ones(8_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(8_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@linux
def test_memory_that_was_freed_is_used_again() -> None:
    """The system hands out a page at a time, and counts."""
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("this C library has no mallopt")
    faults = [int(python(FAULTS, str(kept)).stdout) for kept in (0, 1)]
    assert faults[0] > 100
    assert faults[1] < faults[0] / 10


@linux
def test_no_fork_where_an_accelerator_may_be_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "the only thread").mkdir()
    monkeypatch.setattr(workers, "THREADS", tmp_path)
    assert workers.start_method("cpu") == "fork"
    for device in ("cuda", "cuda:1", "mps"):
        assert workers.start_method(device) == "forkserver"
    for driver, expected in (([], "fork"), (["/dev/nvidia0"], "forkserver")):
        monkeypatch.setattr(Path, "glob", lambda self, pattern, found=driver: iter(found))
        assert workers.start_method("auto") == expected


WAITING = """
import json, os, sys
from lora_cl.engines import workers
os.environ |= json.loads(sys.argv[1])
methods = [workers.start_method("cpu", threads) for threads in (1, 2)]
workers.quiet_threads()
names = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "OMP_DYNAMIC")
print(json.dumps([methods, [os.environ.get(name) for name in names]]))
"""


@linux
@pytest.mark.parametrize(
    ("given", "methods", "environment"),
    [
        ({}, ["fork", "forkserver"], ["PASSIVE", "1", "FALSE"]),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ["fork", "fork"], ["ACTIVE", "1", "FALSE"]),
        ({"GOMP_SPINCOUNT": "10"}, ["fork", "fork"], [None, "1", "FALSE"]),
        ({"OMP_DYNAMIC": "TRUE"}, ["fork", "forkserver"], ["PASSIVE", "1", "FALSE"]),
    ],
)
def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise(
    given: dict[str, str], methods: list[str], environment: list[str | None]
) -> None:
    """A fork would keep the spinning of a process whose OpenMP was loaded without the variable."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_DYNAMIC"):
        assert name not in ENVIRONMENT
    assert json.loads(python(WAITING, json.dumps(given)).stdout) == [methods, environment]


SERVED = """
import multiprocessing, os, signal, sys
from lora_cl.engines import workers
line = f"(env; grep SigBlk /proc/$PPID/status) > {sys.argv[1]}"
process = multiprocessing.get_context("forkserver").Process(target=os.system, args=(line,))
workers.start(process, "forkserver")
process.join()
print("OMP_WAIT_POLICY" in os.environ, hasattr(sys.modules["__main__"], "__spec__"))
"""


@linux
def test_a_served_worker_is_quiet_and_deaf_and_leaves_its_maker_as_it_was(tmp_path: Path) -> None:
    ended = python(SERVED, tmp_path / "env")
    assert (ended.returncode, ended.stdout) == (0, "False True\n"), ended.stderr
    lines = (tmp_path / "env").read_text().splitlines()
    assert {"OMP_WAIT_POLICY=PASSIVE", "OMP_DYNAMIC=FALSE"} <= set(lines)
    blocked = int(lines[-1].split()[1], 16)
    for number in (signal.SIGINT, signal.SIGTERM):
        assert blocked >> (number - 1) & 1
