"""What every method's ``view`` keeps to: it shows tasks that can answer, while it lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

from lora_cl.errors import MethodError
from lora_cl.models import TaskNetwork, close

if TYPE_CHECKING:
    from lora_cl.methods.method import Method

View = Callable[[Any, int], AbstractContextManager[TaskNetwork]]


def guarded(view: View) -> View:
    """``view``, but a MethodError for a task that cannot answer, and its network closed at the end.

    The network shows parts that the method goes on using: once the ``with`` has ended, it would
    silently answer with another task's adapter, or with none.
    """

    @wraps(view)
    @contextmanager
    def guarded_view(self: Method, task_id: int) -> Iterator[TaskNetwork]:
        _require_answer(self, task_id)
        with view(self, task_id) as network:
            try:
                yield network
            finally:
                close(network)

    return guarded_view


def _require_answer(method: Method, task_id: int) -> None:
    tasks = range(method.benchmark.n_tasks)
    if task_id in tasks and method.answers(task_id):
        return
    there = [index for index in tasks if method.answers(index)]
    told = ", ".join(map(str, there)) or "none yet"
    if len(there) > 2 and there == list(range(there[0], there[-1] + 1)):
        told = f"{there[0]} to {there[-1]}"
    raise MethodError(f"task {task_id!r} has no view; tasks that have one: {told}")
