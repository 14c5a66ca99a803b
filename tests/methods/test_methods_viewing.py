"""A view shows tasks that can answer, and its network answers while the view lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from lora_cl.errors import MethodError
from lora_cl.methods import METHODS, Method
from lora_cl.models import TaskNetwork
from lora_cl.testing.by_hand import learned_by_hand

USES: dict[str, Callable[[Any], Any]] = {
    "call": lambda network: network(torch.zeros(1, 12)),
    "logits": lambda network: network.logits(torch.zeros(1, 10)),
    "backbone": lambda network: network.backbone,
    "heads": lambda network: network.heads,
    "state_dict": lambda network: network.state_dict(),
    "parameters": lambda network: list(network.parameters()),
    "buffers": lambda network: list(network.buffers()),
    "to": lambda network: network.to("cpu"),
}

TEXT = """
name: views
benchmark: {{name: split, tasks: {tasks}, dataset: {{name: synthetic, classes: 6, features: 12}}}}
scenario: {scenario}
model: {{hidden: [10]}}
methods: {{{method}: }}
"""


@pytest.mark.parametrize("name", METHODS)
def test_a_network_that_was_kept_refuses_and_an_unknown_task_has_no_view(name: str) -> None:
    method = learned_by_hand(TEXT.format(method=name, scenario="task", tasks=2))
    x = torch.zeros(1, 12)
    there = [task for task in range(2) if method.answers(task)]
    assert there
    for task in there:
        with method.view(task) as network:
            first = network(x)
        for use in USES.values():
            with pytest.raises(MethodError, match="its `with` has ended"):
                use(network)
        assert "backbone" in repr(network)
        with method.view(task) as again:
            assert torch.equal(again(x), first)
    for wrong in (7, -1, 2, "0"):
        with pytest.raises(MethodError) as raised, method.view(wrong):  # type: ignore[arg-type]
            pass
        listed = ", ".join(map(str, there))
        assert str(raised.value) == f"task {wrong!r} has no view; tasks that have one: {listed}"


def test_the_network_of_several_tasks_is_closed_as_well() -> None:
    method = learned_by_hand(TEXT.format(method="full", scenario="task", tasks=2))
    with method.view_together([method.benchmark.task(0), method.benchmark.task(1)]) as network:
        assert network(torch.zeros(1, 12)).shape == (1, 6)
    with pytest.raises(MethodError, match="has ended"):
        network(torch.zeros(1, 12))


def test_which_tasks_there_are() -> None:
    """With one head for one label set, those too that were not learned yet."""
    method = learned_by_hand(TEXT.format(method="full", scenario="domain", tasks=3))
    with pytest.raises(MethodError, match="tasks that have one: 0 to 2"), method.view(3):
        pass
    method.benchmark.scenario = "task"  # As if each had a head of its own: two of them learned.
    method.learned = []
    with pytest.raises(MethodError, match="tasks that have one: none yet"), method.view(0):
        pass


def test_the_view_of_a_method_of_ones_own_is_guarded_too() -> None:
    kind = METHODS["full"]

    class Mine(kind):  # type: ignore[valid-type,misc]
        @contextmanager
        def view(self, task_id: int) -> Iterator[TaskNetwork]:
            with super().view(task_id) as network:
                yield network

    method: Method = learned_by_hand(TEXT.format(method="full", scenario="task", tasks=2))
    method.__class__ = Mine
    with method.view(1) as network:
        network(torch.zeros(1, 12))
    with pytest.raises(MethodError, match="has ended"):
        network(torch.zeros(1, 12))
    with pytest.raises(MethodError, match="has no view"), method.view(5):
        pass
