"""One adapter and one head per task on a frozen base: what LoRA and its family share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lora_cl.adapters import (
    Adapter,
    PeftAdapter,
    activate,
    adapted_layers,
    adapter_modules,
    adapter_state,
    add_adapter,
    assert_all_adapters_have_gradient,
    from_peft,
    load_adapter_state,
    match_targets,
    merge_deltas,
    remove_adapter,
    to_peft,
    unfit_for_peft,
    unpacked_attentions,
    wrap,
)
from lora_cl.adapters.merging import How
from lora_cl.benchmarks import Task
from lora_cl.methods.method import Fit, Method
from lora_cl.models import TaskNetwork, trainable_only


class AdapterPerTask(Method):
    """Learning a task trains its adapter and head; then both are sealed in the bank.

    Only the adapter of the task at hand is in memory.
    """

    private_heads = True
    keeps_base = True
    sealed_alone = True
    quantized_base = False

    @abstractmethod
    def make_adapter(self, layer: str, base: nn.Module, generator: torch.Generator) -> nn.Module:
        """A fresh adapter for one layer; its random draws come from ``generator``."""

    @abstractmethod
    def peft_options(self) -> dict[str, Any]:
        """What PEFT needs to know besides the tensors: the fields of ``PeftAdapter``."""

    @property
    def isolated(self) -> bool:
        return True

    def prepare(self) -> None:
        backbone = self.network.backbone
        targets = match_targets(backbone, self.options.targets)
        wrap(backbone, targets, quantize=self.quantized_base)
        self._add_adapter(0)  # A layer that no adapter fits is told before anything starts.
        remove_adapter(backbone, self.head_name(0))
        trainable_only(self.network, [])

    def begin(self, task: Task) -> None:
        if task.id in self.bank:
            self.learned.append(task.id)
        else:
            super().begin(task)

    def freeze_for(self, task: Task) -> None:
        self._add_adapter(task.id)
        adapters = [
            layer.adapters[self.head_name(task.id)]
            for layer in adapted_layers(self.network.backbone).values()
        ]
        trainable_only(self.network, [*adapters, self.head(task.id)])
        self._gradient_checked = False

    def learn(self, task: Task, fit: Fit) -> None:
        fit([task])
        self.seal(task)

    def seal(self, task: Task) -> None:
        """Moves the adapter and the head of ``task`` into the bank."""
        name = self.head_name(task.id)
        head = {f"head.{k}": v.detach().clone() for k, v in self.head(task.id).state_dict().items()}
        adapter = adapter_state(self.network.backbone, name)
        self.bank[task.id] = {f"backbone.{k}": v for k, v in adapter.items()} | head
        self._close(task.id)

    @contextmanager
    def view(self, task_id: int) -> Iterator[TaskNetwork]:
        sealed = task_id in self.bank
        if sealed:
            self._open(task_id)
        activate(self.network.backbone, self.head_name(task_id))
        try:
            yield self.task_network([task_id])
        finally:
            activate(self.network.backbone)
            if sealed:
                self._close(task_id)

    def base_features(self, x: Tensor) -> Tensor:
        activate(self.network.backbone)
        features: Tensor = self.network.backbone.eval()(x)
        return features

    def after_backward(self) -> None:
        if not self._gradient_checked:
            name = self.head_name(self.learned[-1])
            assert_all_adapters_have_gradient(self.network.backbone, name)
            self._gradient_checked = True

    def _add_adapter(self, task_id: int) -> None:
        def make(layer: str, base: nn.Module) -> nn.Module:
            generator = torch.Generator().manual_seed(self.seed_for("adapter", task_id, layer))
            return self.make_adapter(layer, base, generator)

        add_adapter(self.network.backbone, self.head_name(task_id), make)

    def _open(self, task_id: int) -> None:
        """Brings a sealed task's adapter and head back into the network, as they were."""
        name, state = self.head_name(task_id), self.bank[task_id]
        self._add_adapter(task_id)
        load_adapter_state(self.network.backbone, name, _under("backbone.", state))
        self._open_head(task_id)

    def _open_head(self, task_id: int) -> None:
        state = self.bank[task_id]
        outputs, features = state["head.weight"].shape
        head = nn.Linear(features, outputs, device="meta").to_empty(device=self.network.device)
        head.load_state_dict(_under("head.", state))
        self.network.heads[self.head_name(task_id)] = head.requires_grad_(False)

    @contextmanager
    def opened(self, task_id: int) -> Iterator[dict[str, tuple[Adapter, nn.Module]]]:
        """A sealed task's adapter in each layer, by its name, and the layer's base."""
        name, backbone = self.head_name(task_id), self.network.backbone
        self._add_adapter(task_id)
        try:
            load_adapter_state(backbone, name, _under("backbone.", self.bank[task_id]))
            bases = adapted_layers(backbone)
            found = adapter_modules(backbone, name)
            yield {layer: (adapter, bases[layer].base) for layer, adapter in found.items()}
        finally:
            remove_adapter(backbone, name)

    def deltas(self, task_id: int) -> dict[str, Tensor]:
        """The change of every adapted layer's weight by the adapter of a sealed task."""
        with self.opened(task_id) as layers:
            return {layer: adapter.delta(base) for layer, (adapter, base) in layers.items()}

    def merged_deltas(
        self,
        tasks: Sequence[int],
        how: How,
        weights: Sequence[float],
        density: float,
        rank: int,
    ) -> dict[str, Tensor]:
        """The adapters of sealed ``tasks`` as one change of every layer's weight."""
        several = [self.deltas(task) for task in tasks]
        found = {}
        for layer in several[0]:
            generator = torch.Generator().manual_seed(self.seed_for("merge", len(tasks), layer))
            changes = [deltas[layer] for deltas in several]
            found[layer] = merge_deltas(changes, weights, how, density, rank, generator)
        return found

    def hold_all(self) -> None:
        """Brings the adapters and heads of all sealed tasks into the network, to stay there.

        Views are no longer shown afterwards: the network belongs to who switches between them.
        """
        for task_id in self.bank:
            self._open(task_id)

    def _close(self, task_id: int) -> None:
        name = self.head_name(task_id)
        remove_adapter(self.network.backbone, name)
        del self.network.heads[name]

    def to_peft(self, sealed: dict[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
        """None for layers that are ``unfit_for_peft``."""
        if self.unfit_for_peft():
            return None
        state, head = _under("backbone.", sealed), _under("head.", sealed)
        return to_peft(PeftAdapter(state=state, head=head, **self.peft_options()))

    def unfit_for_peft(self) -> str:
        backbone = self.network.backbone
        return unfit_for_peft(adapted_layers(backbone), unpacked_attentions(backbone))

    def from_peft(self, config: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        adapter = from_peft(config, tensors)
        state = {f"backbone.{k}": v for k, v in adapter.state.items()}
        return state | {f"head.{k}": v for k, v in adapter.head.items()}


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
