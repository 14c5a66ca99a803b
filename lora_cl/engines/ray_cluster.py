"""Many runs on a Ray cluster, with the bytes that one machine would give."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lora_cl.config import RunConfig
from lora_cl.engines.engine import Tally, Watcher
from lora_cl.engines.node import Ended, Mark, do, go_to, made_with, pack, unpack
from lora_cl.errors import ConfigError, LoraClError
from lora_cl.records.events import EVENTS, append_event
from lora_cl.records.files import open_to_append
from lora_cl.records.layout import LOCK
from lora_cl.running.folder import REUSED, RunFolder
from lora_cl.running.runner import Outcome, Where, locked, record_lost_run, run_one
from lora_cl.text import one_line

MISSING = "engine ray needs Ray: pip install 'lora-cl[ray]'"
POLL_SECONDS = 0.2
ATTEMPTS = 5
"""So often a run is begun whose node or process dies under it."""
AHEAD = 2
"""Runs handed to the cluster for each core it has: enough that none waits for the next one."""


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
        with _connected(address) as ray, _marked(where.results) as mark:
            _require_alike(ray, [runs[index] for index in queue], where.data_dir)
            with _Mailbox(ray) as mailbox:
                _Cluster(ray, runs, where, force, tally, mark, mailbox).run(queue, jobs)
    return tally.statuses


class _Cluster:
    """Hands runs to the cluster, and takes what comes back."""

    def __init__(
        self,
        ray: Any,
        runs: Sequence[RunConfig],
        where: Where,
        force: bool,
        tally: Tally,
        mark: Mark,
        mailbox: _Mailbox,
    ) -> None:
        self.ray, self.runs, self.where, self.force = ray, runs, where, force
        self.tally, self.mark, self.mailbox = tally, mark, mailbox
        self.task = ray.remote(max_retries=0)(_do)
        self.under_way: dict[Any, int] = {}
        self.deaths: Counter[int] = Counter()
        """How often each run was lost with its node or process."""

    def run(self, queue: deque[int], jobs: int | None) -> None:
        try:
            while queue or self.under_way:
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

    def _room(self) -> int:
        return AHEAD * max(1, int(self.ray.cluster_resources().get("CPU", 1)))

    def _hand_out(self, index: int) -> Any:
        run, folder = self.runs[index], self._folder(index)
        resources = run.resolved["resources"]
        gpus = resources["gpus"] or float(self.where.device.startswith("cuda"))
        task = self.task.options(
            num_cpus=resources["cpus"] or run.resolved["threads"], num_gpus=gpus
        )
        begun = None if self.force or not folder.is_dir() else pack(folder)
        return task.remote(
            *(index, run, self.where, self.force, self.mark, begun),
            *(str(Path.cwd()), self.mailbox.box),
        )

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
            ended: Ended = self.ray.get(reference)
            outcome = ended.outcome
            if ended.folder is not None:
                outcome = _brought(run, self.where.results, ended)
        except _deaths(self.ray) as death:
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


def _do(
    index: int,
    run: RunConfig,
    where: Where,
    force: bool,
    mark: Mark,
    begun: bytes | None,
    folder: str,
    box: Any,
) -> Ended:
    """On a node: one run, in the folder that the command was given in if that is there."""
    go_to(folder)
    return do(run, where, force, mark, begun, lambda news: box.put.remote(index, news))


def _brought(run: RunConfig, results: Path, ended: Ended) -> Outcome:
    """Puts a run folder that was made elsewhere where it belongs, whole or not at all."""
    assert ended.folder is not None
    place = RunFolder(results, run)
    try:
        place.make()
        with FileLock(place.path / LOCK, timeout=1.0):
            unpack(ended.folder, place.begin_anew())
            place.replace()
    except Timeout:
        return locked(place)
    except (LoraClError, OSError) as error:
        return Outcome("failed", one_line(error))
    return ended.outcome


def _deaths(ray: Any) -> tuple[type[Exception], ...]:
    """What a run is not to blame for: its node, its process, or their memory was lost."""
    names = ("WorkerCrashedError", "NodeDiedError", "ObjectLostError", "OutOfMemoryError")
    return tuple(getattr(ray.exceptions, name) for name in names)


class _Mailbox:
    """What nodes say of runs whose logs are not to be seen from here."""

    def __init__(self, ray: Any) -> None:
        self.ray = ray
        self.box = ray.remote(num_cpus=0)(_Box).remote()
        self.asked: Any = None

    def __enter__(self) -> _Mailbox:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(Exception):
            self.ray.kill(self.box)

    def take(self) -> list[tuple[int, bytes]]:
        """What came since it was asked for the last time; never waits."""
        if self.asked is None:
            self.asked = self.box.take.remote()
            return []
        if not self.ray.wait([self.asked], timeout=0)[0]:
            return []
        asked, self.asked = self.asked, None
        with suppress(Exception):  # The live view is not worth a run.
            found: list[tuple[int, bytes]] = self.ray.get(asked)
            return found
        return []


class _Box:
    def __init__(self) -> None:
        self.letters: list[tuple[int, bytes]] = []

    def put(self, index: int, news: bytes) -> None:
        self.letters.append((index, news))

    def take(self) -> list[tuple[int, bytes]]:
        letters, self.letters = self.letters, []
        return letters


@contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Ray, connected to a cluster; disconnected afterwards, and ended if it was made here."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise ConfigError(MISSING) from None
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    heard = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(
            address=address,
            include_dashboard=False if address == "local" else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            namespace="lora-cl",
        )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        told = one_line(str(error).strip().splitlines()[-1], 300)
        raise ConfigError(f"no Ray cluster at {one_line(address, 80)}: {told}") from None
    try:
        for number, handler in heard.items():  # Ray takes SIGTERM for itself.
            signal.signal(number, handler)
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def _marked(results: Path) -> Iterator[Mark]:
    """A file in the results directory by which nodes know it, while runs are under way."""
    results.mkdir(parents=True, exist_ok=True)
    word = secrets.token_hex(16)
    handle, name = tempfile.mkstemp(prefix=".lora-cl-", suffix=".tmp", dir=results)
    with os.fdopen(handle, "w") as file:
        file.write(word)
    try:
        yield Mark(Path(name), word)
    finally:
        Path(name).unlink(missing_ok=True)


def _from_anywhere(where: Where) -> Where:
    """``where`` with paths that say the same in another folder."""
    data_dir = None if where.data_dir is None else where.data_dir.absolute()
    return Where(where.results.absolute(), where.device, data_dir, where.until)


def _require_alike(ray: Any, runs: Sequence[RunConfig], data_dir: Path | None) -> None:
    """Raises ConfigError unless every node would compute as this process does.

    Brings each of them the data and weights that the runs begin with, once.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    distinct = list({repr(sorted(run.content.items())): run for run in runs}.values())
    here = made_with([], data_dir)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = {}
    for node in nodes:
        pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ask = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=pinned)(_made_with)
        asked[ask.remote(distinct, data_dir, str(Path.cwd()))] = node["NodeManagerAddress"]
    for reference, name in asked.items():
        try:
            there = ray.get(reference)
        except Exception as error:
            cause = getattr(error, "cause", None) or error
            raise ConfigError(f"node {name}: {type(cause).__name__}: {one_line(cause)}") from None
        for what, version in here.items():
            if there.get(what) != version:
                raise ConfigError(
                    f"node {name}: {what} is {one_line(there.get(what), 60)} there and "
                    f"{one_line(version, 60)} here; a run would not be the same run"
                )


def _made_with(runs: Sequence[RunConfig], data_dir: Path | None, folder: str) -> dict[str, str]:
    go_to(folder)
    return made_with(runs, data_dir)
