"""A Ray cluster of several nodes on this machine, of real processes."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import process_cases
import pytest
from process_cases import session_of, wait_until, words_of

RAY = str(Path(sys.executable).with_name("ray"))
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
"""What nodes and drivers of a cluster know each other by."""
ENVIRONMENT = {**os.environ, **TOKEN, "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}


def let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets this process, and commands that it starts, into the clusters made here."""
    for name, value in TOKEN.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setitem(process_cases.ENVIRONMENT, name, value)


class Cluster:
    """A head that does no runs, and nodes of a core each, which can be killed."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.nodes = scratch, 0
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.address = f"127.0.0.1:{_free_port()}"

    def start_head(self) -> None:
        port = self.address.rpartition(":")[2]
        options = ["--head", f"--port={port}", "--include-dashboard=false", "--num-cpus=0"]
        self._start("head", options, [])

    def add(self, blind_to: Path | None = None, instead: tuple[Path, Path] | None = None) -> str:
        """Another node. ``blind_to`` is a folder that is an empty one of its own for it; in the
        place of the first file of ``instead`` it finds the second."""
        self.nodes += 1
        name = f"node{self.nodes}"
        prefix = []
        mounts = [f'mount -t tmpfs tmpfs "{blind_to}"'] if blind_to else []
        if instead is not None:
            mounts.append(f'mount --bind "{instead[1]}" "{instead[0]}"')
        if mounts:
            prefix = ["unshare", "--mount", "sh", "-c", " && ".join([*mounts, 'exec "$@"']), "sh"]
        self._start(name, [f"--address={self.address}", "--num-cpus=1"], prefix)
        return name

    def _start(self, name: str, options: list[str], prefix: list[str]) -> None:
        """Tries again where a busy machine was slower than the 30 seconds that Ray allows."""
        start = [*prefix, RAY, "start", *options, "--block", "--object-store-memory=100000000"]
        log = self.scratch / f"{name}.log"
        for _ in range(3):
            with log.open("wb") as out:
                process = subprocess.Popen(
                    start, stdout=out, stderr=out, env=ENVIRONMENT, start_new_session=True
                )
            self.processes[name] = process

            def ready(process: subprocess.Popen[bytes] = process) -> bool:
                return "Ray runtime started" in log.read_text() or process.poll() is not None

            if wait_until(ready, 120) and process.poll() is None:
                return
            self.kill(name)
        raise AssertionError(log.read_text())

    def runs(self, name: str, task: str) -> bool:
        """Whether a process of that node calls itself ``task``, as those of Ray do."""
        return any(
            words_of(pid).startswith(task.encode()) for pid in session_of(self.processes[name].pid)
        )

    def alive(self, name: str) -> bool:
        return self.processes[name].poll() is None

    def kill(self, name: str) -> None:
        """All processes of a node at once, as when its plug is pulled."""
        process = self.processes.pop(name)
        for pid in session_of(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()

    def end(self, *names: str) -> None:
        """Kills these nodes, or all."""
        for name in names or list(self.processes):
            self.kill(name)


@contextmanager
def cluster(scratch: Path) -> Iterator[Cluster]:
    made = Cluster(scratch)
    try:
        made.start_head()
        yield made
    finally:
        made.end()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
