"""What is computed once gives the same bits as what is computed at every step."""

from __future__ import annotations

import pytest
import torch
from adapted_cases import adapted, grads, network_of
from image_cases import backbone as image_backbone
from torch import nn

from lora_cl.models import trainable_only
from lora_cl.models.backbone import stages
from lora_cl.models.cnn import Cnn, CnnOptions
from lora_cl.models.layout import ChannelsLast
from lora_cl.models.mlp import Mlp, MlpOptions
from lora_cl.models.prefix import FromBase, without_prefix


def test_a_frozen_backbone_is_computed_once():
    torch.manual_seed(0)
    network = network_of(Mlp(MlpOptions(hidden=[16, 8]), torch.Size((10,))), 8)
    trainable_only(network, list(network.heads))
    x = torch.rand(48, 10)
    shorter, features = without_prefix(network, x, batch_size=16)
    assert features.shape == (48, 8)
    assert len(shorter.backbone) == 0
    assert torch.equal(shorter(features[:16]), network(x[:16]))
    assert shorter.heads[0] is network.heads[0]


@pytest.mark.parametrize("names", [["linear1", "linear2"], ["linear2"]])
def test_the_first_adapted_layer_keeps_its_base_output(names):
    torch.manual_seed(0)
    backbone = Mlp(MlpOptions(hidden=[16, 8]), torch.Size((10,)))
    network = network_of(backbone, 8)
    trainable_only(network, [*adapted(backbone, names), *network.heads])
    x = torch.rand(48, 10)
    shorter, rows = without_prefix(network, x, batch_size=16)
    assert isinstance(shorter.backbone[0], FromBase)
    # Input and base output of the first adapted layer stand side by side.
    assert rows.shape == (48, 10 + 16 if names[0] == "linear1" else 16 + 8)
    assert torch.equal(shorter(rows[:16]), network(x[:16]))
    for ours, right in zip(grads(shorter, rows[:16]), grads(network, x[:16]), strict=True):
        assert torch.equal(ours, right)


def test_convolutions_too():
    torch.manual_seed(0)
    backbone = Cnn(CnnOptions(channels=[4, 4], hidden=8), torch.Size((1, 8, 8))).eval()
    network = network_of(backbone, 8)
    trainable_only(network, [*adapted(backbone, ["conv2", "linear"]), *network.heads])
    x = torch.rand(40, 1, 8, 8)
    shorter, rows = without_prefix(network, x, batch_size=16)
    if shorter is not network:  # A convolution may round by the batch: then nothing is kept.
        assert torch.equal(shorter(rows[:16]), network(x[:16]))
    torch.testing.assert_close(shorter(rows[:16]), network(x[:16]))


DEEP = {
    "vit": ({"width": 16, "depth": 3, "heads": 2}, ["block3.attention.v", "block3.mlp.down"], 5),
    "vit, a token of its own": ({"width": 16, "depth": 2, "pool": "cls"}, [], 7),
    "vit, its first layer": ({"width": 16, "depth": 2, "heads": 2}, ["embed", "block1.mlp.up"], 1),
    "timm": ({"model": "test_resnet"}, ["network.layer4.0.conv2"], 14),
    "timm, frozen": ({"model": "test_resnet"}, [], 18),
}


@pytest.mark.parametrize("case", DEEP)
def test_the_longest_frozen_beginning_of_a_deep_network(case):
    options, names, kept = DEEP[case]
    backbone = image_backbone(case.partition(",")[0], (1, 16, 16), **options)
    whole = len(stages(backbone))
    network = network_of(backbone, backbone(torch.zeros(1, 1, 16, 16)).shape[1])
    trainable_only(network, [*(adapted(backbone, names) if names else []), *network.heads])
    x = torch.rand(48, 1, 16, 16)
    shorter, rows = without_prefix(network, x, batch_size=16)
    if shorter is network:  # A convolution may round by the batch: then nothing is kept.
        assert case.startswith("timm")
        return
    assert len(stages(shorter.backbone)) == whole - kept
    assert torch.equal(shorter(rows[:16]), network(x[:16]))
    for ours, right in zip(grads(shorter, rows[:16]), grads(network, x[:16]), strict=True):
        assert torch.equal(ours, right)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_nothing_is_kept_where_the_first_layer_trains_or_anything_is_random(dropout):
    network = network_of(Mlp(MlpOptions(hidden=[16], dropout=dropout), torch.Size((10,))), 16)
    if dropout:
        trainable_only(network, [network.heads[0]])
    x = torch.rand(24, 10)
    same, rows = without_prefix(network, x, batch_size=8)
    if dropout:
        assert isinstance(same.backbone[0], nn.Dropout)
    else:
        assert same is network
        assert rows is x


@pytest.mark.parametrize("trained", [["network.conv_head"], ["network.conv_stem"], []])
def test_rows_are_laid_out_again_as_the_beginning_left_them(trained):
    torch.manual_seed(0)
    backbone = image_backbone("timm", (1, 16, 16), model="test_efficientnet")
    network = network_of(backbone, 256)
    trainable_only(network, [*(adapted(backbone, trained) if trained else []), *network.heads])
    x = torch.rand(48, 1, 16, 16)
    shorter, rows = without_prefix(network, x, batch_size=16)
    if trained == ["network.conv_stem"]:  # A convolution is as cheap as laying out its output.
        assert shorter is network
        return
    assert shorter is not network
    laid = [isinstance(stage, ChannelsLast) for stage in stages(shorter.backbone)]
    assert laid == ([True, *[False] * (len(laid) - 1)] if trained else [])
    few = rows.index_select(0, torch.arange(16))
    assert torch.equal(shorter(few), network(x[:16]))
    for ours, right in zip(grads(shorter, few), grads(network, x[:16]), strict=True):
        assert torch.equal(ours, right)


def test_features_that_are_too_large_are_not_kept(monkeypatch):
    monkeypatch.setattr("lora_cl.models.prefix.MAX_BYTES", 48 * 8 * 4 - 1)
    network = network_of(Mlp(MlpOptions(hidden=[8]), torch.Size((10,))), 8)
    trainable_only(network, [network.heads[0]])
    x = torch.rand(48, 10)
    assert without_prefix(network, x, batch_size=8)[0] is network
