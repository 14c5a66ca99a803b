"""Which layers are matched, and what is refused."""

import pytest
import torch
from torch import nn

from lora_cl.adapters import make_lora, match_targets, wrap
from lora_cl.adapters.targets import left_out
from lora_cl.errors import MethodError


class Attention(nn.Module):
    def __init__(self, names):
        super().__init__()
        for name in names:
            self.add_module(name, nn.Linear(4, 4))


class Block(nn.Module):
    def __init__(self, names=("q", "k", "v", "out")):
        super().__init__()
        self.attention = Attention(names)
        self.norm = nn.LayerNorm(4)
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))


class Transformer(nn.Module):
    def __init__(self, names=("q", "k", "v", "out")):
        super().__init__()
        self.proj = nn.Linear(4, 4)
        self.patch = nn.Conv2d(3, 4, 2)
        self.blocks = nn.ModuleList([Block(names), Block(names)])
        self.out = nn.Linear(4, 4)


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4)
    )


def test_all_linear_takes_linear_and_convolution_and_nothing_else():
    assert match_targets(cnn(), "all-linear") == ["0", "4"]
    assert len(match_targets(Transformer(), "all-linear")) == 3 + 2 * 6


@pytest.mark.parametrize(
    "names",
    [
        ("q", "k", "v", "out"),
        ("query", "key", "value", "out_proj"),
        ("q_proj", "k_proj", "v_proj", "o_proj"),
        ("qkv", "proj"),
    ],
)
def test_attention_takes_its_four_and_no_other_out_or_proj(names):
    expected = [f"blocks.{i}.attention.{name}" for i in (0, 1) for name in names]
    assert match_targets(Transformer(names), "attention") == expected


def test_last_k():
    assert match_targets(Transformer(), "last-2") == ["blocks.1.mlp.2", "out"]
    assert match_targets(cnn(), "last-1") == ["4"]
    with pytest.raises(MethodError, match="more than the model's 2 layers: 0, 4"):
        match_targets(cnn(), "last-3")


def test_names_and_globs_in_the_order_of_the_model():
    assert match_targets(Transformer(), ["out", "blocks.*.mlp.0", "*.0.mlp.?"]) == [
        "blocks.0.mlp.0",
        "blocks.0.mlp.2",
        "blocks.1.mlp.0",
        "out",
    ]


def test_matching_again_after_wrapping_gives_the_same_names():
    for targets in ("all-linear", "attention", "last-2", ["blocks.*.mlp.0"]):
        model = Transformer()
        names = match_targets(model, targets)
        wrap(model, names)
        assert match_targets(model, targets) == names


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("attention", "0 layers matched targets='attention'; the model has: 0, 4"),
        ([], r"0 layers matched targets=\[\]; the model has: 0, 4"),
        (["0", "fc*"], r"0 layers matched targets='fc\*'; the model has: 0, 4"),
        (["0", "1"], "'1' is of type BatchNorm2d; only Linear and Conv2d"),
        ("all_linear", "did you mean 'all-linear'"),
        ("last-0", "'last-0' is unknown"),
    ],
)
def test_no_match_is_an_error_that_says_what_there_is(targets, message):
    with pytest.raises(MethodError, match=message):
        match_targets(cnn(), targets)


def test_nearest_match_is_named():
    with pytest.raises(MethodError, match=r"did you mean 'blocks\.0\.mlp\.0'"):
        match_targets(Transformer(), ["block.0.mlp.0"])


def test_a_model_without_layers():
    with pytest.raises(MethodError, match="no Linear or Conv2d layer"):
        match_targets(nn.Sequential(nn.ReLU()), "all-linear")


def test_packed_attention_is_one_layer():
    model = nn.TransformerEncoderLayer(8, 2, 16)
    names = ["self_attn", "linear1", "linear2"]
    for targets in ("all-linear", "last-3", ["*"]):
        assert match_targets(model, targets) == names
    assert match_targets(model, "attention") == ["self_attn"]
    assert match_targets(model, ["linear*"]) == ["linear1", "linear2"]
    with pytest.raises(MethodError, match=r"'self_attn\.out_proj' is a part of self_attn, which"):
        match_targets(model, ["self_attn.out_proj"])
    wrap(model, ["self_attn"])
    for targets in ("all-linear", "last-3"):
        assert match_targets(model, targets) == names
    assert match_targets(model, "attention") == ["self_attn"]


@pytest.mark.parametrize("targets", ["all-linear", "attention", ["0*"], ["*"]])
@pytest.mark.parametrize("odd", [{"kdim": 4, "vdim": 4}, {"add_bias_kv": True}])
def test_packed_attention_that_cannot_be_taken_apart_is_refused(targets, odd):
    model = nn.Sequential(nn.MultiheadAttention(8, 2, **odd), nn.Linear(8, 8))
    with pytest.raises(MethodError, match=r"reaches into 0, an nn\.MultiheadAttention whose keys"):
        match_targets(model, targets)
    assert match_targets(model, ["1"]) == ["1"]


def test_what_taking_apart_is_for():
    """Wrapping out_proj would put an adapter where its forward is never called."""
    model = nn.MultiheadAttention(8, 2)
    called = []
    model.out_proj.register_forward_hook(lambda *_: called.append(1))
    x = torch.randn(3, 1, 8)
    model(x, x, x)
    assert called == []


def depthwise_net():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 3, groups=2),
        nn.Conv2d(8, 2, 1), nn.Conv2d(1, 1, 1),
    )  # fmt: skip


def test_depthwise_convolutions_are_left_out_unless_they_are_named():
    net = depthwise_net()
    assert match_targets(net, "all-linear") == ["0", "2", "3", "4"]
    assert match_targets(net, "last-4") == ["0", "2", "3", "4"]
    assert match_targets(net, ["1", "3"]) == ["1", "3"]
    assert "1 depthwise convolution: an adapter there is larger" in left_out(net, "all-linear")
    assert left_out(net, ["1"]) == left_out(cnn(), "all-linear") == ""
    wrap(net, ["1", "2"])
    assert match_targets(net, "all-linear") == ["0", "2", "3", "4"]
    with pytest.raises(MethodError, match="multiple of 4, where an adapter is larger than the lay"):
        make_lora(net[1].base, rank=2, alpha=1.0, generator=torch.Generator())


class Standardised(nn.Conv2d):
    """Computes otherwise than its weight says."""

    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


def test_layers_that_compute_otherwise_than_their_weight_says_are_not_adapted():
    net = nn.Sequential(Standardised(1, 2, 3), nn.Conv2d(2, 2, 3))
    assert match_targets(net, "all-linear") == ["1"]
    with pytest.raises(MethodError, match="'0' is of type Standardised; only Linear and Conv2d"):
        match_targets(net, ["0"])
    with pytest.raises(MethodError, match="layer '0' is a Standardised"):
        wrap(net, ["0"])
