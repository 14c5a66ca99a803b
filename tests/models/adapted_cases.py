"""A backbone with a head, some of its layers adapted."""

from __future__ import annotations

import torch
from torch import nn

from lora_cl.adapters import activate, add_adapter, make_lora, wrap
from lora_cl.models import TaskNetwork, training_mode


def network_of(backbone: nn.Module, features: int) -> TaskNetwork:
    return TaskNetwork(backbone, [nn.Linear(features, 3)], {0: 0})


def adapted(backbone: nn.Module, names: list[str]) -> list[nn.Module]:
    wrap(backbone, names)

    def make(name: str, base: nn.Module) -> nn.Module:
        adapter = make_lora(base, rank=2, alpha=4.0, generator=torch.Generator().manual_seed(1))
        nn.init.normal_(adapter.lora_B.weight)
        return adapter

    add_adapter(backbone, "a", make)
    activate(backbone, "a")
    return [module.adapters["a"] for module in backbone.modules() if hasattr(module, "adapters")]


def grads(network: TaskNetwork, x: torch.Tensor) -> list[torch.Tensor]:
    trained = [p for p in network.parameters() if p.requires_grad]
    training_mode(network)
    return list(torch.autograd.grad(network(x).square().sum(), trained))
