from __future__ import annotations

import math

import pytest
import torch
from image_cases import backbone

from lora_cl.adapters import match_targets
from lora_cl.errors import ConfigError
from lora_cl.models.backbone import stages
from lora_cl.models.vit import Attention, Patches, Pool, Positions


def test_patches_row_by_row():
    x = torch.arange(2 * 4 * 4.0).view(1, 2, 4, 4)
    tokens = Patches(2)(x)
    assert tokens.shape == (1, 4, 8)
    assert tokens[0, 1].tolist() == [2.0, 3.0, 6.0, 7.0, 18.0, 19.0, 22.0, 23.0]


def test_attention_by_hand():
    torch.manual_seed(0)
    attention = Attention(6, heads=2)
    x = torch.rand(2, 5, 6)
    parts = []
    for head in (slice(0, 3), slice(3, 6)):
        q, k, v = (layer(x)[..., head] for layer in (attention.q, attention.k, attention.v))
        parts.append((q @ k.transpose(1, 2) / math.sqrt(3)).softmax(2) @ v)
    torch.testing.assert_close(attention(x), attention.proj(torch.cat(parts, dim=2)))


def test_a_token_of_its_own_comes_first():
    positions = Positions(4, 3, cls=True)
    torch.nn.init.zeros_(positions.position)
    torch.nn.init.ones_(positions.cls)
    x = torch.rand(2, 4, 3)
    made = positions(x)
    assert torch.equal(made[:, 1:], x)
    assert torch.equal(Pool(first=True)(made), torch.ones(2, 3))
    assert torch.equal(Pool(first=False)(x), x.mean(1))


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_shapes_and_stages(pool):
    net = backbone("vit", (3, 8, 12), patch=4, width=8, depth=3, heads=2, pool=pool)
    assert net(torch.rand(5, 3, 8, 12)).shape == (5, 8)
    assert stages(net) == list(net)
    assert len(stages(net)) == 3 + 3 + 2


def test_targets():
    net = backbone("vit", width=8, depth=2, heads=2)
    names = [f"block{n}.attention.{layer}" for n in (1, 2) for layer in ("q", "k", "v", "proj")]
    assert match_targets(net, "attention") == names
    assert match_targets(net, "last-2") == ["block2.mlp.up", "block2.mlp.down"]
    assert len(match_targets(net, "all-linear")) == 1 + 2 * 6


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((7,), {}, r"model vit needs images \(C, H, W\)"),
        ((1, 10, 8), {}, "images of 10 x 8 do not divide into patches of 4 x 4"),
        ((1, 8, 8), {"width": 10, "heads": 4}, "a width of 10 does not divide among 4 heads"),
    ],
)
def test_what_it_cannot_take(shape, options, message):
    with pytest.raises(ConfigError, match=message):
        backbone("vit", shape, **options)
