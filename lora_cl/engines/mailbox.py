"""What nodes of a Ray cluster say of their runs while these go on."""

from __future__ import annotations

from contextlib import suppress
from typing import Any


class Mailbox:
    """Letters of nodes: the number of a run whose log is not to be seen from here, and its news."""

    def __init__(self, ray: Any) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # Beside the driver: another node may die and take it along.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.ray = ray
        self.box = ray.remote(num_cpus=0, scheduling_strategy=here)(Box).remote()
        self.asked: Any = None

    def __enter__(self) -> Mailbox:
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


class Box:
    """Where a node of the cluster keeps the letters of all."""

    def __init__(self) -> None:
        self.letters: list[tuple[int, bytes]] = []

    def put(self, index: int, news: bytes) -> None:
        self.letters.append((index, news))

    def take(self) -> list[tuple[int, bytes]]:
        letters, self.letters = self.letters, []
        return letters
