from __future__ import annotations

import pytest
import torch
from torch import nn

from lora_cl.models import Mlp, MlpOptions, calibrate_norms, keep_statistics
from lora_cl.models.cnn import Cnn, CnnOptions


def network() -> nn.Sequential:
    """Two norms with a scaling by 3 between them."""
    made = nn.Sequential(
        nn.BatchNorm1d(1), nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1, momentum=0.3)
    )
    with torch.no_grad():
        made[1].weight.fill_(3.0)
    return made


def test_statistics_by_hand() -> None:
    made = network()
    calibrate_norms(made, torch.tensor([[1.0], [3.0], [5.0], [7.0]]))
    # Mean 4, squares of the distance 9, 1, 1, 9: 20 / 3 of the sample. The next norm sees three
    # times what is left: mean 0, variance 9 of the four and 4 / 3 as much of the sample.
    first, second = made[0].state_dict(), made[2].state_dict()
    assert first["running_mean"].tolist() == [4.0]
    assert first["running_var"].tolist() == pytest.approx([20 / 3])
    assert second["running_mean"].tolist() == pytest.approx([0.0], abs=1e-6)
    assert second["running_var"].tolist() == pytest.approx([12.0], rel=1e-4)


def test_nothing_else_changes() -> None:
    made = network()
    made.train()
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    x = torch.rand(32, 1, generator=torch.Generator().manual_seed(0))
    calibrate_norms(made, x)
    after = made.state_dict()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert moved == [f"{place}.{name}" for place in (0, 2) for name in statistics]
    assert [norm.momentum for norm in keep_statistics(made)] == [0.1, 0.3]
    assert not any(module.training for module in made.modules())
    assert all(parameter.grad is None for parameter in made.parameters())


def test_the_same_again_whatever_was_there_before() -> None:
    x = torch.rand(32, 1, generator=torch.Generator().manual_seed(0))
    once, twice = network(), network()
    for other in (5 * x, -x, x):
        calibrate_norms(twice, other)
    calibrate_norms(once, x)
    assert all(torch.equal(twice.state_dict()[k], v) for k, v in once.state_dict().items())


IMAGE = torch.Size((1, 8, 8))


@pytest.mark.parametrize(
    ("backbone", "norms"),
    [
        (Cnn(CnnOptions(channels=[4, 8], hidden=8), IMAGE), ["norm1", "norm2"]),
        (Cnn(CnnOptions(channels=[4], hidden=8, norm=False), IMAGE), []),
        (Mlp(MlpOptions(hidden=[8]), IMAGE), []),
        (nn.Sequential(nn.LayerNorm(3), nn.BatchNorm1d(3, track_running_stats=False)), []),
        (nn.Sequential(nn.InstanceNorm1d(3, track_running_stats=True)), ["0"]),
    ],
)
def test_which_norms_keep_statistics(backbone: nn.Module, norms: list[str]) -> None:
    found = keep_statistics(backbone)
    assert [name for name, module in backbone.named_modules() if module in found] == norms
