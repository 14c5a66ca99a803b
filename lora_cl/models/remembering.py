"""Backbones that look up what they computed of an input before, as long as they are frozen."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from lora_cl.data.features import FeatureStore
from lora_cl.models.backbone import Backbone
from lora_cl.models.network import content_hash

UNKNOWN = -1
"""The version of a tensor made in inference mode, which keeps no count of its changes."""


class RememberingBackbone(Backbone):
    """A backbone whose features of one input depend, to the last bit, on no other input.

    ``remember`` gives it a store. From then on, where nothing is differentiated and its tensors
    are those that it was given it with, features come from there; on CPUs alone.
    """

    store: FeatureStore | None = None

    def remember(self, store: FeatureStore) -> None:
        self.store = store
        self._hash = self._content()
        self._versions = self._addresses()
        self._same = True

    def __call__(self, x: Tensor) -> Tensor:
        compute = super().__call__
        if self.store is None or torch.is_grad_enabled() or not self._is_as_it_was(x):
            return compute(x)  # type: ignore[no-any-return]
        return self.store.features(x, compute)

    def _is_as_it_was(self, x: Tensor) -> bool:
        if self.training or x.device.type != "cpu":
            return False
        versions = self._addresses()
        if versions != self._versions or UNKNOWN in (version for _, version in versions):
            self._same = len(versions) == len(self._versions) and self._content() == self._hash
            self._versions = versions
        return self._same

    def _addresses(self) -> list[tuple[int, int]]:
        tensors = self.state_dict().values()
        return [(t.data_ptr(), UNKNOWN if t.is_inference() else t._version) for t in tensors]

    def _content(self) -> bytes:
        digest = hashlib.blake2b(digest_size=16)
        for name, tensor in self.state_dict().items():
            digest.update(name.encode() + b"\0" + content_hash(tensor))
        return digest.digest()
