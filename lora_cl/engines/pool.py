"""Many runs: checked together, then done in a pool of processes; one's failure is its own."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from lora_cl.config import RunConfig
from lora_cl.engines.engine import Tally, Watcher
from lora_cl.engines.worker import GO_ON, NoRoom, why_ended, work
from lora_cl.engines.workers import start, start_method
from lora_cl.running.arithmetic import alone
from lora_cl.running.runner import Outcome, Where, record_lost_run, run_one

POLL_SECONDS = 0.2


def run_all(
    runs: Sequence[RunConfig], where: Where, watcher: Watcher, force: bool = False, *, jobs: int
) -> list[str]:
    """The ``Engine`` of one machine: ``jobs`` processes, or 0 for this one.

    Where fewer processes can be started, so many do the runs, down to this one. A run whose folder
    another process holds comes after the others, and is waited for. An interrupt stops every worker
    within two seconds.
    """
    tally = Tally(runs, watcher)
    left: Iterable[int] = range(len(runs))
    if jobs > 0:
        left = _Pool(runs, where, jobs, force, tally).run()
    queue = deque(left)
    while queue:
        index = queue.popleft()
        with alone("a run"):
            outcome = run_one(runs[index], where, force)
        if not tally.ended(index, outcome):
            queue.append(index)
    return tally.statuses


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
        self,
        runs: Sequence[RunConfig],
        where: Where,
        jobs: int,
        force: bool,
        tally: Tally,
    ) -> None:
        self.runs, self.where, self.jobs, self.force = runs, where, jobs, force
        self.tally, self.watcher = tally, tally.watcher
        self.threads = max((int(run.resolved["threads"]) for run in runs), default=1)
        self.workers: list[_Worker] = []
        self.most = len(runs)
        """No more workers than this can be started here."""
        self.queue = deque(range(len(runs)))
        """Runs that want to compute, the next one first: not begun, or between two steps."""

    def run(self) -> list[int]:
        """Does the runs, and returns those left because no worker can be started."""
        try:
            while self._hand_out():
                busy = [worker for worker in self.workers if worker.computing]
                wait([w.pipe for w in busy] + [w.process.sentinel for w in busy], POLL_SECONDS)
                for worker in busy:
                    self._collect(worker)
                self.watcher.poll()
        finally:
            self._stop()
        return list(self.queue)

    def _hand_out(self) -> bool:
        """Lets the next runs compute where there is room for them; False when none computes."""
        computing = sum(worker.computing for worker in self.workers)
        for index in list(self.queue):
            if computing >= self.jobs:
                break
            begun = next((w for w in self.workers if w.task == index), None)
            worker = begun or next((w for w in self.workers if w.task is None), None)
            worker = worker or self._start()
            if worker is None:  # A run that was begun may be further behind.
                continue
            self.queue.remove(index)
            worker.task, worker.computing = index, True
            computing += 1
            with suppress(OSError):  # A worker that died meanwhile is noticed by its sentinel.
                worker.pipe.send(GO_ON if begun else self.runs[index])
        return computing > 0

    def _start(self) -> _Worker | None:
        """A new worker; None where there is no room for one."""
        if len(self.workers) >= self.most:
            return None
        method = start_method(self.where.device, self.threads)
        context: Any = multiprocessing.get_context(method)
        with ExitStack() as ours_on_failure, ExitStack() as theirs_always:
            try:
                ours, theirs = context.Pipe()
                ours_on_failure.callback(ours.close)
                theirs_always.callback(theirs.close)
                lifeline, held = context.Pipe(duplex=False)
                ours_on_failure.callback(held.close)
                theirs_always.callback(lifeline.close)
                others = [end for w in self.workers for end in (w.pipe, w.lifeline)]
                inherited = [ours, held, *others] if method == "fork" else []
                turns = len(self.runs) > self.jobs
                process = context.Process(
                    target=work,
                    args=(theirs, lifeline, inherited, self.where, self.force, turns),
                    daemon=True,
                )
                start(process, method)
            except (OSError, EOFError) as error:  # EOFError: the server could not.
                self._no_room(getattr(error, "strerror", None) or "the system refuses")
                return None
            ours_on_failure.pop_all()
        self.workers.append(_Worker(process, ours, held))
        return self.workers[-1]

    def _no_room(self, reason: str) -> None:
        """Goes on with the workers there are; without any, the runs are done in this process."""
        self.most = len(self.workers)
        if self.most < self.jobs:
            there = f"going on with {self.most}" if self.most else "going on in this process alone"
            self.watcher.say(f"no more worker processes can be started ({reason}): {there}")
        self.jobs = min(self.jobs, self.most)

    def _collect(self, worker: _Worker) -> None:
        index = worker.task
        assert index is not None
        said: Outcome | NoRoom | str | None = None
        with suppress(EOFError, OSError):
            if worker.pipe.poll():
                said = worker.pipe.recv()
        if said is None:
            if worker.process.is_alive():
                return
            worker.process.join()
            message = why_ended(worker.process.exitcode)
            self._let_go(worker)
            self.workers.remove(worker)
            said = record_lost_run(self.runs[index], self.where, message, self.force)
        worker.computing = False
        if isinstance(said, str):
            self._queue_again(index)
            return
        worker.task = None
        if isinstance(said, NoRoom):
            worker.process.join()
            self._let_go(worker)
            self.workers.remove(worker)
            self.queue.appendleft(index)
            self._no_room(said.reason)
            return
        if not self.tally.ended(index, said):  # Come back to it after the others.
            self.queue.append(index)

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
