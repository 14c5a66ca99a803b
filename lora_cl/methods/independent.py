"""Independent: a fresh network for every task."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from lora_cl.benchmarks import Task
from lora_cl.errors import ConfigError
from lora_cl.methods.method import Fit, Method
from lora_cl.methods.routing import RouterOptions
from lora_cl.models import Mlp, MlpOptions, TaskNetwork, seeded, trainable_only
from lora_cl.options import OptionsBase

Width = Annotated[int, Field(ge=1, le=65536)]


class IndependentOptions(RouterOptions):
    """`hidden`: layer widths of a smaller MLP per task, with weights of its own.

    Without it every task starts from the base weights.
    """

    hidden: Annotated[list[Width], Field(min_length=1, max_length=64)] | None = None
    """Layer widths of a smaller MLP per task; null: the config's model, from the base weights."""


class Independent(Method):
    """One whole network per task, sealed in the bank; the base itself is never trained.

    The separate networks of van de Ven et al. 2022 are ``hidden: [100, 100]``.
    """

    Options: ClassVar[type[OptionsBase]] = IndependentOptions
    summary: ClassVar[str] = "a fresh network for every task"
    private_heads = True
    sealed_alone = True

    @property
    def isolated(self) -> bool:
        return True

    def prepare(self) -> None:
        backbone = self.network.backbone
        if self.options.hidden is not None and not isinstance(backbone, Mlp):
            raise ConfigError(
                f"independent: hidden goes with model mlp, not {type(backbone).__name__.lower()}"
            )
        self.current = nn.ModuleDict()
        self.network.add_module("current", self.current)
        trainable_only(self.network, [])

    def begin(self, task: Task) -> None:
        if task.id in self.bank:
            self.learned.append(task.id)
        else:
            name = self.head_name(task.id)
            self.current[name] = self._fresh_backbone(task.id).to(self.network.device)
            super().begin(task)

    def freeze_for(self, task: Task) -> None:
        trainable_only(self.network, [self.current[self.head_name(task.id)], self.head(task.id)])

    def learn(self, task: Task, fit: Fit) -> None:
        fit([task])
        self._seal(task.id)

    @contextmanager
    def view(self, task_id: int) -> Iterator[TaskNetwork]:
        if task_id in self.bank:
            yield self._open(task_id)
        else:
            yield self.task_network([task_id], self.current[self.head_name(task_id)])

    def head_features(self, task_id: int) -> int:
        hidden: list[int] | None = self.options.hidden
        return self.network.features if hidden is None else hidden[-1]

    def _fresh_backbone(self, task_id: int) -> nn.Module:
        hidden = self.options.hidden
        if hidden is None:
            return copy.deepcopy(self.network.backbone)
        with seeded(self.seed_for("backbone", task_id)):
            return Mlp(MlpOptions(hidden=hidden), self.benchmark.input_shape)

    def _seal(self, task_id: int) -> None:
        name = self.head_name(task_id)
        parts = {"backbone": self.current[name], "head": self.head(task_id)}
        self.bank[task_id] = {
            f"{part}.{key}": tensor.detach().clone()
            for part, module in parts.items()
            for key, tensor in module.state_dict().items()
        }
        del self.current[name], self.network.heads[name]

    def _open(self, task_id: int) -> TaskNetwork:
        """A sealed task's network, as it was."""
        sealed = self.bank[task_id]
        outputs, features = sealed["head.weight"].shape
        backbone, head = self._fresh_backbone(task_id), nn.Linear(features, outputs)
        for part, module in {"backbone.": backbone, "head.": head}.items():
            module.load_state_dict(
                {k[len(part) :]: v for k, v in sealed.items() if k.startswith(part)}
            )
        network = TaskNetwork(backbone, [head], {task_id: 0})
        return network.to(self.network.device).requires_grad_(False)

    # The base is the seed's to make again, and no task uses it.

    def state_dict(self) -> dict[str, Tensor]:
        state = super().state_dict()
        return {k: v for k, v in state.items() if not k.startswith("network.backbone.")}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        base = {f"network.backbone.{k}": v for k, v in self.network.backbone.state_dict().items()}
        super().load_state_dict(base | state)

    def total_parameters(self) -> int:
        networks = sum(self._task_parameters(task_id) for task_id in self.learned)
        return networks + self._base_copy()

    def _task_parameters(self, task_id: int) -> int:
        hidden: list[int] | None = self.options.hidden
        if hidden is None:
            backbone = sum(p.numel() for p in self.network.backbone.parameters())
        else:
            widths = [self.benchmark.input_shape.numel(), *hidden]
            backbone = sum((n + 1) * m for n, m in zip(widths, hidden, strict=False))
        return backbone + (self.head_features(task_id) + 1) * self.benchmark.task_classes(task_id)

    def details(self) -> dict[str, Any]:
        return {"parameters_per_task": [self._task_parameters(k) for k in self.learned]}
