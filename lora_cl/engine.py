"""Many runs: checked together, then done in a pool of processes; one's failure is its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from lora_cl.config import RunConfig
from lora_cl.runner import Outcome, Where, record_lost_run, run_one
from lora_cl.workers import start_method, without_main, without_signals

POLL_SECONDS = 0.2


class Watcher(Protocol):
    """Hears how the runs go; see ``progress.Progress``."""

    def poll(self) -> None: ...
    def finished(self, index: int, status: str, message: str | None) -> None: ...


def run_all(
    runs: Sequence[RunConfig], where: Where, jobs: int, watcher: Watcher, force: bool = False
) -> list[str]:
    """Does ``runs`` in ``jobs`` processes (0: in this one) and returns their statuses, in order.

    KeyboardInterrupt stops every worker within two seconds and is raised again.
    """
    if jobs == 0:
        return [
            _in_this_process(index, run, where, watcher, force) for index, run in enumerate(runs)
        ]
    return _Pool(where, force, watcher).run(runs, min(jobs, len(runs)))


def _in_this_process(
    index: int, run: RunConfig, where: Where, watcher: Watcher, force: bool
) -> str:
    while (outcome := run_one(run, where, force)).status == "locked":
        watcher.poll()
    watcher.poll()
    watcher.finished(index, outcome.status, outcome.message)
    return outcome.status


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    lifeline: Connection
    task: int | None = None


class _Pool:
    """Worker processes, each doing one run at a time; one that dies is replaced."""

    def __init__(self, where: Where, force: bool, watcher: Watcher) -> None:
        self.where, self.force, self.watcher = where, force, watcher
        self.workers: list[_Worker] = []

    def run(self, runs: Sequence[RunConfig], jobs: int) -> list[str]:
        statuses = ["unfinished"] * len(runs)
        self.waiting = list(range(len(runs)))[::-1]
        try:
            for _ in range(jobs):
                self.workers.append(self._start())
            while self.waiting or any(worker.task is not None for worker in self.workers):
                for worker in self.workers:
                    if worker.task is None and self.waiting:
                        self._give(worker, self.waiting.pop(), runs)
                busy = [worker for worker in self.workers if worker.task is not None]
                wait([w.pipe for w in busy] + [w.process.sentinel for w in busy], POLL_SECONDS)
                for worker in busy:
                    self._collect(worker, runs, statuses)
                self.watcher.poll()
        finally:
            self._stop()
        return statuses

    def _start(self) -> _Worker:
        method = start_method(self.where.device)
        context: Any = multiprocessing.get_context(method)
        ours, theirs = context.Pipe()
        lifeline, held = context.Pipe(duplex=False)
        inherited = []
        if method == "fork":
            others = [end for worker in self.workers for end in (worker.pipe, worker.lifeline)]
            inherited = [ours, held, *others]
        process = context.Process(
            target=_work,
            args=(theirs, lifeline, inherited, self.where, self.force),
            daemon=True,
        )
        with without_main(), without_signals():
            process.start()
        theirs.close()
        lifeline.close()
        return _Worker(process, ours, held)

    def _give(self, worker: _Worker, index: int, runs: Sequence[RunConfig]) -> None:
        worker.task = index
        with suppress(OSError):  # A worker that died meanwhile is noticed by its sentinel.
            worker.pipe.send(runs[index])

    def _collect(self, worker: _Worker, runs: Sequence[RunConfig], statuses: list[str]) -> None:
        index = worker.task
        assert index is not None
        outcome: Outcome | None = None
        with suppress(EOFError, OSError):
            if worker.pipe.poll():
                outcome = worker.pipe.recv()
        if outcome is None:
            if worker.process.is_alive():
                return
            worker.process.join()
            message = _why(worker.process.exitcode)
            self._let_go(worker)
            self.workers[self.workers.index(worker)] = self._start()
            outcome = record_lost_run(runs[index], self.where, message, self.force)
        worker.task = None
        if outcome.status == "locked":  # Another command does it: come back to it after the others.
            self.waiting.insert(0, index)
            return
        statuses[index] = outcome.status
        self.watcher.poll()
        self.watcher.finished(index, outcome.status, outcome.message)

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
    while True:
        try:
            run = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(run_one(run, where, force))


def _end_with_parent(lifeline: Connection) -> None:
    """The other end of ``lifeline`` closes when the main process is gone, however it went."""
    with suppress(EOFError, OSError):
        lifeline.recv_bytes()
    os._exit(1)
