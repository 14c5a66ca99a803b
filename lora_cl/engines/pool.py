"""Many runs: checked together, then done in a pool of processes; one's failure is its own."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from lora_cl.config import RunConfig
from lora_cl.engines.workers import start, start_method
from lora_cl.errors import ConfigError
from lora_cl.running.runner import Outcome, Where, record_lost_run, run_one

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 3.0
GIVES_WAY, GO_ON = "gives way", "go on"
"""What a worker says between two steps, and the answer that it waits for."""


class Watcher(Protocol):
    """Hears how the runs go; see ``report.progress.Progress``."""

    def poll(self) -> None: ...
    def say(self, text: str) -> None: ...
    def finished(self, index: int, status: str, message: str | None) -> None: ...


def run_all(
    runs: Sequence[RunConfig], where: Where, jobs: int, watcher: Watcher, force: bool = False
) -> list[str]:
    """Does ``runs`` in ``jobs`` processes (0: in this one) and returns their statuses, in order.

    KeyboardInterrupt stops every worker within two seconds and is raised again. Where no process
    can be started, fewer work, or this one alone.
    """
    if jobs > 0:
        return _Pool(runs, where, jobs, force, watcher).run()
    return [_in_this_process(index, run, where, watcher, force) for index, run in enumerate(runs)]


def _in_this_process(
    index: int, run: RunConfig, where: Where, watcher: Watcher, force: bool
) -> str:
    if not _computing.acquire(blocking=False):
        raise ConfigError(
            "jobs=0: another thread of this process computes a run; both would draw from one "
            "random stream, so give jobs=1"
        )
    try:
        waited = Waiting(watcher)
        while (outcome := run_one(run, where, force)).status == "locked":
            watcher.poll()
            waited.for_run(index, outcome)
    finally:
        _computing.release()
    watcher.poll()
    watcher.finished(index, outcome.status, outcome.message)
    return outcome.status


_computing = threading.Lock()


class Waiting:
    """Tells once of each run that another process has, when that takes a while."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher
        self.since: dict[int, float] = {}

    def for_run(self, index: int, outcome: Outcome) -> None:
        since = self.since.setdefault(index, time.monotonic())
        if time.monotonic() - since >= PATIENCE_SECONDS:
            self.since[index] = math.inf
            self.watcher.say(f"waiting: {outcome.message}")


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    lifeline: Connection
    task: int | None = None
    computing: bool = False


class _Pool:
    """Worker processes, each with one run at a time; one that dies is replaced.

    ``jobs`` of them compute. When fewer than twice as many runs are left, all of these are begun
    and take turns, so that no core is idle while one last run goes on.
    """

    def __init__(
        self, runs: Sequence[RunConfig], where: Where, jobs: int, force: bool, watcher: Watcher
    ) -> None:
        self.runs, self.where, self.jobs, self.force = runs, where, jobs, force
        self.watcher = watcher
        self.workers: list[_Worker] = []
        self.queue = deque(range(len(runs)))
        """Runs that want to compute, the next one first: not begun, or between two steps."""
        self.statuses = ["unfinished"] * len(runs)
        self.waiting = Waiting(watcher)
        self.threads = max((run.resolved["threads"] for run in runs), default=1)

    def run(self) -> list[str]:
        try:
            while self._hand_out():
                busy = [worker for worker in self.workers if worker.computing]
                wait([w.pipe for w in busy] + [w.process.sentinel for w in busy], POLL_SECONDS)
                for worker in busy:
                    self._collect(worker)
                self.watcher.poll()
        finally:
            self._stop()
        return self.statuses

    def _hand_out(self) -> bool:
        """Lets the next runs compute where there is room for them; False when all are done."""
        computing = sum(worker.computing for worker in self.workers)
        for _ in range(min(self.jobs - computing, len(self.queue))):
            index = self.queue.popleft()
            begun = next((w for w in self.workers if w.task == index), None)
            worker = begun or next((w for w in self.workers if w.task is None), None)
            if worker is None:
                worker = self._start()
                if worker is None:
                    self.queue.appendleft(index)
                    self._make_do()
                    break
                self.workers.append(worker)
            worker.task, worker.computing = index, True
            with suppress(OSError):  # A worker that died meanwhile is noticed by its sentinel.
                worker.pipe.send(GO_ON if begun else self.runs[index])
        return any(worker.computing for worker in self.workers)

    def _make_do(self) -> None:
        """No process can be started: as many as there are work, or this one alone."""
        self.jobs = len(self.workers)
        if self.jobs:
            self.watcher.say(f"no more processes can be started here; {self.jobs} work")
            return
        self.watcher.say("no processes can be started here; this one works alone")
        while self.queue:
            index = self.queue.popleft()
            self.statuses[index] = _in_this_process(
                index, self.runs[index], self.where, self.watcher, self.force
            )

    def _start(self) -> _Worker | None:
        """A new worker; None where the system has no room for one."""
        method = start_method(self.where.device, self.threads)
        context: Any = multiprocessing.get_context(method)
        ours, theirs = context.Pipe()
        lifeline, held = context.Pipe(duplex=False)
        inherited = []
        if method == "fork":
            others = [end for worker in self.workers for end in (worker.pipe, worker.lifeline)]
            inherited = [ours, held, *others]
        process = context.Process(
            target=_work,
            args=(theirs, lifeline, inherited, self.where, self.force, len(self.runs) > self.jobs),
            daemon=True,
        )
        try:
            start(process, method)
        except (OSError, EOFError):
            ours.close()
            held.close()
            return None
        finally:
            theirs.close()
            lifeline.close()
        return _Worker(process, ours, held)

    def _collect(self, worker: _Worker) -> None:
        index = worker.task
        assert index is not None
        said: Outcome | str | None = None
        with suppress(EOFError, OSError):
            if worker.pipe.poll():
                said = worker.pipe.recv()
        if said is None:
            if worker.process.is_alive():
                return
            worker.process.join()
            message = _why(worker.process.exitcode)
            self._let_go(worker)
            self.workers.remove(worker)
            said = record_lost_run(self.runs[index], self.where, message, self.force)
        worker.computing = False
        if isinstance(said, str):
            self._queue_again(index)
            return
        worker.task = None
        if said.status == "locked":  # Another command does it: come back to it after the others.
            self.queue.append(index)
            self.waiting.for_run(index, said)
            return
        self.statuses[index] = said.status
        self.watcher.poll()
        self.watcher.finished(index, said.status, said.message)

    def _queue_again(self, index: int) -> None:
        """Behind the others if all that is left takes turns, else before runs not begun."""
        left = len(self.queue) + 1 + sum(worker.computing for worker in self.workers)
        if left < 2 * self.jobs:
            self.queue.append(index)
        else:
            self.queue.appendleft(index)

    def _stop(self) -> None:
        """Ends all workers: at once, and none is left behind."""
        for worker in self.workers:
            worker.process.kill()  # What is on disk is whole at any moment.
        for worker in self.workers:
            worker.process.join()
            self._let_go(worker)

    def _let_go(self, worker: _Worker) -> None:
        """Closes what joins us; a worker that is alive after all, unknown to its server, ends."""
        worker.pipe.close()
        worker.lifeline.close()


def _why(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"the worker process was ended by {name}{hint}"
    return f"the worker process ended by itself with exit code {exitcode}"


def _work(
    pipe: Connection,
    lifeline: Connection,
    inherited: Sequence[Connection],
    where: Where,
    force: bool,
    take_turns: bool,
) -> None:
    """A worker: does the runs it is sent, until it is ended or the main process is gone.

    ``inherited`` are the main process's ends of all lines, of which a fork has copies.
    """
    # Sent to all processes at once, they are for the main process, which then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for end in inherited:  # A line is dead only when the last copy of its other end is closed.
        end.close()
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()

    def give_way() -> None:
        try:
            pipe.send(GIVES_WAY)
            pipe.recv()
        except (EOFError, OSError):  # The main process is gone; the run is to be resumed.
            os._exit(1)

    while True:
        try:
            run = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(run_one(run, where, force, give_way if take_turns else None))


def _end_with_parent(lifeline: Connection) -> None:
    """The other end of ``lifeline`` closes when the main process is gone, however it went."""
    with suppress(EOFError, OSError):
        lifeline.recv_bytes()
    os._exit(1)
