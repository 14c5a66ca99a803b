"""The nodes of a Ray cluster: which of them compute as the process does that asked for the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_cl.config import RunConfig
from lora_cl.engines.node import Command, bring, go_to, versions_here
from lora_cl.errors import ConfigError
from lora_cl.text import one_line


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

    Brings each of them the data and weights that the runs begin with, once.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    distinct = list({repr(sorted(run.content.items())): run for run in runs}.values())
    asked = {}
    for node in ray.nodes():
        if node["Alive"]:
            pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ask = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=pinned)(_ready)
            asked[ask.remote(command, distinct)] = node["NodeManagerAddress"]
    for reference, name in asked.items():
        try:
            unlike: Unlike | None = ray.get(reference)
        except Exception as error:
            cause = getattr(error, "cause", None) or error
            raise ConfigError(f"node {name}: {type(cause).__name__}: {one_line(cause)}") from None
        if unlike:
            raise ConfigError(unlike.told)


def _ready(command: Command, runs: Sequence[RunConfig]) -> Unlike | None:
    go_to(command.folder)
    if unlike := compare(command.versions):
        return unlike
    bring(runs, command.where.data_dir)
    return None
