"""Where a method puts what belongs to a learned task and never changes again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import MutableMapping
from hashlib import blake2b

from torch import Tensor

from lora_cl.models import content_hash


class Bank(MutableMapping[int, dict[str, Tensor]]):
    """What is sealed with each learned task: written once, read when the task is viewed."""

    @abstractmethod
    def fingerprint(self, task_id: int) -> str:
        """A hash of the content of what is sealed with ``task_id``; KeyError if nothing is."""

    @abstractmethod
    def parameters(self) -> int:
        """The number of elements of all sealed tensors."""

    def check(self, task_id: int) -> None:
        """Raises KeyError or ResultsError unless what is sealed with ``task_id`` is whole."""
        self[task_id]


class MemoryBank(dict[int, dict[str, Tensor]], Bank):
    """A bank in memory."""

    def fingerprint(self, task_id: int) -> str:
        tensors = sorted(self[task_id].items())
        whole = b"".join(name.encode() + content_hash(tensor) for name, tensor in tensors)
        return blake2b(whole, digest_size=16).hexdigest()

    def parameters(self) -> int:
        return sum(tensor.numel() for state in self.values() for tensor in state.values())
