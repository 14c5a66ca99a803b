"""The adapters of a finished run, all in memory: switched in microseconds, or mixed in a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lora_cl.adapters import Mixture, adapted_layers
from lora_cl.errors import MethodError
from lora_cl.methods import Method
from lora_cl.methods.adapted import AdapterPerTask
from lora_cl.methods.predicting import Prediction
from lora_cl.models import TaskNetwork, close

SAME = 1e-4
"""How far, relative to the largest logit, a mixed batch may be from one task after another."""


class AdapterBank:
    """One network, and an adapter and a head for each task of a run.

    ``with bank.task(2) as network:`` shows the network as task 2 sees it. ``bank(x, tasks)`` and
    ``bank.predict(inputs, tasks)`` take batches whose rows are of different tasks. The method that
    it was made of shows no views any more.
    """

    def __init__(self, method: Method) -> None:
        if not isinstance(method, AdapterPerTask):
            kind = type(method).__name__.lower()
            raise MethodError(f"{kind}: has no adapter per task that a bank could hold")
        method.hold_all()
        method.network.requires_grad_(False).eval()
        self.method = method
        self.tasks: list[int] = sorted(method.learned)
        self.layers = list(adapted_layers(method.network.backbone).values())
        self._names = {task_id: method.head_name(task_id) for task_id in self.tasks}
        self._in_use: int | None = None
        self._mixes = False

    @contextmanager
    def task(self, task_id: int) -> Iterator[TaskNetwork]:
        """The network (N, *input) -> logits as task ``task_id`` sees it, inside the ``with``.

        MethodError for a task that is not there, for a second one while the first is in use, and
        when the network is used after the ``with`` has ended.
        """
        self._require_there(task_id)
        if self._in_use is not None:
            raise MethodError(
                f"task {self._in_use} is in use: its `with` must end before task {task_id} is shown"
            )
        network = self.method.task_network([task_id])
        # What is inside is in eval mode for good; to visit it all would be most of the time.
        network.training = network.heads.training = False
        self._in_use = task_id
        self._switch((self._names[task_id],))
        try:
            yield network
        finally:
            self._switch(())
            self._in_use = None
            close(network)

    @torch.inference_mode()
    def __call__(self, x: Tensor, tasks: Sequence[int] | Tensor) -> Tensor:
        """Logits (N, k) of x (N, *input), row n by task ``tasks[n]``; k is the largest number of
        outputs among them, and minus infinity stands beyond those of a smaller one."""
        wanted = torch.as_tensor(tasks, dtype=torch.int64)
        if wanted.shape != (len(x),) or not len(x):
            raise MethodError(f"{len(x)} inputs need as many tasks, not {tuple(wanted.shape)}")
        order = wanted.argsort(stable=True)
        there, counts = torch.unique_consecutive(wanted[order], return_counts=True)
        for task_id in there.tolist():
            self._require_there(task_id)
        sizes: list[int] = counts.tolist()
        logits = self._mixed(x[order.to(x.device)], there.tolist(), sizes)
        return logits[order.argsort().to(x.device)]

    def _require_there(self, task_id: int) -> None:
        if task_id not in self._names:
            known = ", ".join(map(str, self.tasks))
            raise MethodError(f"task {task_id!r} is not in the bank; there are: {known}")

    def predict(self, inputs: Any, tasks: int | Sequence[int] | Tensor) -> Prediction:
        """As ``Method.predict``, of inputs that are each of its own task, or all of one."""
        x = self.method.reads(inputs)
        each = torch.as_tensor(tasks).expand(len(x)) if isinstance(tasks, int) else tasks
        probabilities = functional.softmax(self(x, each), dim=1)
        owners = torch.as_tensor(each)
        names = {task_id: self.method.benchmark.class_names(task_id) for task_id in self.tasks}
        found = zip(owners.tolist(), probabilities.argmax(1).tolist(), strict=True)
        return Prediction([names[k][label] for k, label in found], probabilities, owners)

    def _mixed(self, x: Tensor, tasks: list[int], sizes: list[int]) -> Tensor:
        """Logits of x, of which the first ``sizes[0]`` rows are of ``tasks[0]``, and so on."""
        if self._in_use is not None:
            raise MethodError(f"task {self._in_use} is in use: its `with` must end first")
        if len(tasks) > 1 and not self._mixes:
            self._require_mixing(x, tasks, sizes)
        names = [self._names[task_id] for task_id in tasks]
        owners = torch.repeat_interleave(torch.arange(len(tasks)), torch.tensor(sizes))
        self._mix(Mixture(names, owners.to(x.device)))
        try:
            features = self.method.network.backbone(x)
        finally:
            self._mix(None)
        return self._logits(features.split(sizes), tasks)

    def _logits(self, features: Sequence[Tensor], tasks: list[int]) -> Tensor:
        heads = [self.method.head(task_id) for task_id in tasks]
        pieces = [head(part) for head, part in zip(heads, features, strict=True)]
        widest = max(piece.shape[1] for piece in pieces)
        empty = float("-inf")
        return torch.cat(
            [functional.pad(piece, (0, widest - piece.shape[1]), value=empty) for piece in pieces]
        )

    def _require_mixing(self, x: Tensor, tasks: list[int], sizes: list[int]) -> None:
        """Once, on the first row of each task: a network in which rows of a batch meet, or lie in
        another dimension, gives other answers in company, and is refused."""
        self._mixes = True
        starts = torch.tensor([0, *sizes]).cumsum(0)[:-1].to(x.device)
        first = x[starts]
        try:
            together = self._mixed(first, tasks, [1] * len(tasks))
            for row, task_id in enumerate(tasks):
                with self.task(task_id) as network:
                    alone = network(first[row : row + 1])[0]
                near = SAME * float(alone.abs().max().clamp_min(1.0))
                if not bool((together[row, : len(alone)] - alone).abs().max() <= near):
                    raise MethodError(
                        "the rows of a batch are not independent in this network: batches of "
                        "several tasks cannot be mixed; use one task at a time"
                    )
        except BaseException:
            self._mixes = False
            raise

    def _switch(self, names: tuple[str, ...]) -> None:
        # Past Module.__setattr__, which would look for parameters: a tenth of the time.
        for layer in self.layers:
            layer.__dict__["active"] = names

    def _mix(self, mixture: Mixture | None) -> None:
        for layer in self.layers:
            layer.__dict__["mixture"] = mixture
