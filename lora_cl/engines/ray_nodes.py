"""A Ray cluster, connected to, and which of its nodes compute as this process does."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lora_cl.config import RunConfig
from lora_cl.engines.node import Command, bring, go_to, versions_here
from lora_cl.errors import ConfigError
from lora_cl.text import one_line

MISSING = "engine ray needs Ray: pip install 'lora-cl[ray]'"
NOTICED_SECONDS = 60.0


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
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


def deaths(ray: Any) -> tuple[type[Exception], ...]:
    """What a run is not to blame for: its node, its process, or their memory was lost."""
    names = ["WorkerCrashedError", "NodeDiedError", "ObjectLostError", "OutOfMemoryError"]
    names.append("TaskUnschedulableError")  # What was pinned to a node that is gone.
    return tuple(getattr(ray.exceptions, name) for name in names)


@dataclass(frozen=True)
class Unlike:
    """A node, by Ray's name for it, that has other versions, and which in one line."""

    node: str
    told: str


def compare(asked: Mapping[str, str]) -> Unlike | None:
    """On a node: None if it has the versions of the process that asked."""
    there = versions_here()
    for what, version in asked.items():
        if there.get(what) != version:
            import ray

            told = (
                f"node {ray.util.get_node_ip_address()}: {what} is "
                f"{one_line(there.get(what), 60)} there and {one_line(version, 60)} here; "
                "a run would not be the same run"
            )
            return Unlike(ray.get_runtime_context().get_node_id(), told)
    return None


def require_alike(ray: Any, command: Command, runs: Sequence[RunConfig]) -> None:
    """Raises ConfigError unless every node computes as this process does.

    Brings each of them the data and weights that the runs begin with, once. One that dies meanwhile
    is passed over.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    distinct = list({repr(sorted(run.content.items())): run for run in runs}.values())
    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ask = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=pinned)(_ready)
            asked[ask.remote(command, distinct)] = node
    for reference, node in asked.items():
        try:
            unlike: Unlike | None = ray.get(reference)
        except Exception as error:
            if isinstance(error, deaths(ray)) and _is_gone(ray, node["NodeID"]):
                continue
            cause = getattr(error, "cause", None) or error
            told = f"{type(cause).__name__}: {one_line(cause)}"
            raise ConfigError(f"node {node['NodeManagerAddress']}: {told}") from None
        if unlike:
            raise ConfigError(unlike.told)


def _is_gone(ray: Any, node: str) -> bool:
    """Whether a node is not there any more; Ray takes a while to notice."""
    end = time.monotonic() + NOTICED_SECONDS
    while any(one["NodeID"] == node and one["Alive"] for one in ray.nodes()):
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True


def _ready(command: Command, runs: Sequence[RunConfig]) -> Unlike | None:
    go_to(command.folder)
    if unlike := compare(command.versions):
        return unlike
    bring(runs, command.where.data_dir)
    return None
