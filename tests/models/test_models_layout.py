"""Channels last is another order in memory, and nothing else; it is used where it pays."""

from __future__ import annotations

import pytest
import torch
from image_cases import backbone
from torch import nn

from lora_cl.models.backbone import stages
from lora_cl.models.layout import ChannelsLast, pays


def test_the_same_numbers_with_their_channels_side_by_side():
    x = torch.rand(2, 3, 4, 5)
    laid = ChannelsLast()(x)
    assert torch.equal(laid, x)
    assert laid.stride() == (60, 1, 15, 3)


def test_what_is_no_image_stays_as_it_is():
    rows = torch.rand(4, 7)
    assert ChannelsLast()(rows) is rows


@pytest.mark.parametrize(("groups", "expected"), [(1, False), (2, True), (4, True)])
def test_it_pays_where_a_convolution_has_groups(groups, expected):
    network = nn.Sequential(nn.Conv2d(4, 8, 1), nn.Sequential(nn.Conv2d(8, 8, 3, groups=groups)))
    assert pays(network) is expected


@pytest.mark.parametrize(("model", "expected"), [("test_efficientnet", 1), ("test_resnet", 0)])
def test_networks_of_timm(model, expected):
    found = [type(stage) for stage in stages(backbone("timm", model=model))]
    assert found.count(ChannelsLast) == expected


def test_every_convolution_is_given_them_that_way(monkeypatch):
    network = backbone("timm", model="test_efficientnet").eval()
    x = torch.rand(3, 1, 16, 16)
    orders = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda _, given, out: orders.append(
                    given[0].is_contiguous(memory_format=torch.channels_last)
                )
            )
    features = network(x)
    assert len(orders) == 17
    assert all(orders)
    (layout,) = (module for module in network.modules() if isinstance(module, ChannelsLast))
    monkeypatch.setattr(layout, "forward", lambda x: x)
    torch.testing.assert_close(network(x), features)
    assert not all(orders[17:])


def test_gradients_of_single_samples_go_through_it():
    x = torch.rand(5, 3, 4, 4)
    kernel = torch.rand(6, 1, 3, 3)

    def loss(kernel, one):
        return nn.functional.conv2d(ChannelsLast()(one.unsqueeze(0)), kernel, groups=3).sum()

    found = torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(kernel, x)
    for mine, one in zip(found, x, strict=True):
        torch.testing.assert_close(mine, torch.func.grad(loss)(kernel, one))
