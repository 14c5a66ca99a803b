"""Many runs on a Ray cluster, with the bytes that one machine would give."""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lora_cl.config import RunConfig
from lora_cl.engines.engine import Tally, Watcher
from lora_cl.engines.mailbox import Mailbox
from lora_cl.engines.node import Command, Ended, Mark, do, go_to, pack, unpack, versions_here
from lora_cl.engines.ray_nodes import Unlike, compare, connected, deaths, require_alike
from lora_cl.errors import LoraClError
from lora_cl.records.events import EVENTS, append_event
from lora_cl.records.files import open_to_append
from lora_cl.records.holder import held, is_held
from lora_cl.running.folder import REUSED, RunFolder
from lora_cl.running.runner import Outcome, Where, locked, record_lost_run, run_one
from lora_cl.text import one_line

POLL_SECONDS = 0.2
ATTEMPTS = 5
"""So often a run is begun whose node or process dies under it."""
NODE = "ray.io/node-id"
"""The label by which Ray tells its nodes apart."""
AHEAD = 2
"""Runs handed to the cluster for each core it has: enough that none waits for the next one."""
GRACE_SECONDS = 60.0
MARK = ".lora-cl-"


def run_all(
    runs: Sequence[RunConfig],
    where: Where,
    watcher: Watcher,
    force: bool = False,
    *,
    address: str | None,
    jobs: int | None = None,
) -> list[str]:
    """The ``Engine`` of a cluster: that at ``address``, or one of this machine's cores alone.

    Each run takes the ``resources`` that its config names; ``jobs`` is the most at a time. Raises
    ConfigError, before anything is started, where a node has other versions than this process.
    """
    tally = Tally(runs, watcher)
    queue: deque[int] = deque()
    for index, run in enumerate(runs):
        if not force and RunFolder(where.results, run).outlook() == REUSED:
            tally.ended(index, run_one(run, where))
        else:
            queue.append(index)
    if queue:
        where = _from_anywhere(where)
        with connected(address) as ray, _marked(where.results) as mark:
            command = Command(where, force, mark, str(Path.cwd()), versions_here())
            require_alike(ray, command, [runs[index] for index in queue])
            with Mailbox(ray) as mailbox:
                _Cluster(ray, runs, command, tally, mailbox).run(queue, jobs)
    return tally.statuses


class _Cluster:
    """Hands runs to the cluster, and takes what comes back."""

    def __init__(
        self,
        ray: Any,
        runs: Sequence[RunConfig],
        command: Command,
        tally: Tally,
        mailbox: Mailbox,
    ) -> None:
        self.ray, self.runs, self.command = ray, runs, command
        self.where, self.tally, self.mailbox = command.where, tally, mailbox
        self.task = ray.remote(max_retries=0)(_do)
        self.under_way: dict[Any, int] = {}
        self.deaths: Counter[int] = Counter()
        """How often each run was lost with its node or process."""
        self.unlike: set[str] = set()
        """Nodes that came later and have other versions: no run is handed to them."""

    def run(self, queue: deque[int], jobs: int | None) -> None:
        try:
            while (queue or self.under_way) and not self._overdue():
                most = self._room() if jobs is None else max(1, jobs)
                while queue and len(self.under_way) < most:
                    index = queue.popleft()
                    self.under_way[self._hand_out(index)] = index
                pending = list(self.under_way)
                ended, _ = self.ray.wait(pending, num_returns=len(pending), timeout=POLL_SECONDS)
                self._deliver_logs()
                for reference in ended:
                    index = self.under_way.pop(reference)
                    if not self._take(reference, index):
                        queue.append(index)
                self.tally.watcher.poll()
        finally:
            for reference in self.under_way:
                with suppress(Exception):  # What is lost already cannot be ended.
                    self.ray.cancel(reference, force=True)

    def _overdue(self) -> bool:
        """Whether time was up for longer than runs need to stop: no node is left for the others."""
        return self.where.until is not None and time.time() > self.where.until + GRACE_SECONDS

    def _room(self) -> int:
        return AHEAD * max(1, int(self.ray.cluster_resources().get("CPU", 1)))

    def _hand_out(self, index: int) -> Any:
        run, folder = self.runs[index], self._folder(index)
        resources = run.resolved["resources"]
        gpus = resources["gpus"] or float(self.where.device.startswith("cuda"))
        begun = None if self.command.force or not folder.is_dir() else pack(folder)
        return self.task.options(
            num_cpus=resources["cpus"] or run.resolved["threads"],
            num_gpus=gpus,
            label_selector={NODE: f"!in({','.join(sorted(self.unlike))})"} if self.unlike else None,
        ).remote(index, run, self.command, begun, self.mailbox.box)

    def _folder(self, index: int) -> Path:
        return RunFolder(self.where.results, self.runs[index]).path

    def _deliver_logs(self) -> None:
        """What runs say whose folders are elsewhere, to where the live view reads it."""
        for index, news in self.mailbox.take():
            folder = self._folder(index)
            with suppress(LoraClError, OSError):
                RunFolder(self.where.results, self.runs[index]).make()
                with open_to_append(folder / EVENTS) as file:
                    file.write(news)

    def _take(self, reference: Any, index: int) -> bool:
        """Takes how a run ended; False if it has to be done again."""
        run = self.runs[index]
        try:
            ended: Ended | Unlike = self.ray.get(reference)
            if isinstance(ended, Unlike):
                self._avoid(ended)
                return False
            outcome = ended.outcome
            if ended.folder is not None:
                outcome = _brought(run, self.where.results, ended)
        except deaths(self.ray) as death:
            told = one_line(str(death).partition("\n")[0] or type(death).__name__, 160)
            self.deaths[index] += 1
            if self.deaths[index] < ATTEMPTS:
                with suppress(LoraClError, OSError):
                    RunFolder(self.where.results, run).make()
                    append_event(self._folder(index), "lost", message=told)
                return False
            message = f"lost {ATTEMPTS} times with its node or process: {told}"
            outcome = record_lost_run(run, self.where, message)
        except Exception as error:  # Such as an object store that is full.
            outcome = Outcome("failed", one_line(f"{type(error).__name__}: {error}", 300))
        return self.tally.ended(index, outcome)

    def _avoid(self, node: Unlike) -> None:
        if node.node not in self.unlike:
            self.unlike.add(node.node)
            self.tally.watcher.say(f"{node.told}: nothing is done there")


def _do(
    index: int, run: RunConfig, command: Command, begun: bytes | None, box: Any
) -> Ended | Unlike:
    """On a node: one run, in the folder that the command was given in if that is there."""
    go_to(command.folder)
    if unlike := compare(command.versions):
        return unlike
    return do(run, command, begun, lambda news: box.put.remote(index, news))


def _brought(run: RunConfig, results: Path, ended: Ended) -> Outcome:
    """Puts a run folder that was made elsewhere where it belongs, whole or not at all."""
    assert ended.folder is not None
    place = RunFolder(results, run)
    try:
        place.make()
        with held(place.path):
            unpack(ended.folder, place.begin_anew())
            place.replace()
    except Timeout:
        return locked(place)
    except (LoraClError, OSError) as error:
        return Outcome("failed", one_line(error))
    return ended.outcome


@contextmanager
def _marked(results: Path) -> Iterator[Mark]:
    """A file in the results directory by which nodes know it, while runs are under way.

    Those of commands that were killed are removed: nobody holds them.
    """
    results.mkdir(parents=True, exist_ok=True)
    for left in results.glob(f"{MARK}*.tmp"):
        if not is_held(left):
            left.unlink(missing_ok=True)
    word = secrets.token_hex(16)
    handle, name = tempfile.mkstemp(prefix=MARK, suffix=".tmp", dir=results)
    with os.fdopen(handle, "w") as file:
        file.write(word)
    with ExitStack() as lock:
        with suppress(OSError):  # Without locks the runs will say so, each of its own.
            lock.enter_context(FileLock(name))
        try:
            yield Mark(Path(name), word)
        finally:
            Path(name).unlink(missing_ok=True)


def _from_anywhere(where: Where) -> Where:
    """``where`` with paths that say the same in another folder."""
    data_dir = None if where.data_dir is None else where.data_dir.absolute()
    return Where(where.results.absolute(), where.device, data_dir, where.until)
