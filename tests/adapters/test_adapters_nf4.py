"""The 4-bit base: its levels, its bytes, its error, and that no float copy lives."""

import copy
import gc

import adapters_reference as reference
import numpy as np
import pytest
import torch
from torch import nn

from lora_cl.adapters import (
    NF4Linear,
    activate,
    add_adapter,
    make_lora,
    merged,
    nf4_dequantize,
    nf4_quantize,
    parameter_count,
    wrap,
)
from lora_cl.adapters.nf4 import NF4_LEVELS, nf4_layer
from lora_cl.errors import MethodError
from lora_cl.models import SameConv2d


def round_trip(values):
    return nf4_dequantize(nf4_quantize(values), tuple(values.shape))


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_levels_are_those_of_the_paper():
    assert len(NF4_LEVELS) == 16
    np.testing.assert_allclose(NF4_LEVELS, [float(v) for v in reference.NF4.split()], atol=1e-12)
    assert list(NF4_LEVELS) == sorted(NF4_LEVELS)


def test_every_level_comes_back_exactly():
    levels = torch.tensor(NF4_LEVELS).repeat(4)
    assert torch.equal(round_trip(levels), levels)
    assert torch.equal(round_trip(levels * 8), levels * 8)


def test_codes_are_packed_two_to_a_byte_the_earlier_one_high():
    quantised = nf4_quantize(torch.tensor([-1.0, 1.0, 0.0, 0.7229568362236023]))
    assert quantised.codes.tolist() == [0x0F, 0x7E]
    assert quantised.codes.dtype == torch.uint8


def test_error_on_normal_weights_is_the_published_one():
    weight = normal(1024, 1024)
    error = (round_trip(weight) - weight).abs().mean().item()
    assert 0.0725 < error < 0.0733  # 0.0729 at block 64; a broken rounding gives 0.16


@pytest.mark.parametrize("n", [1, 2, 63, 64, 65, 127, 129, 1000])
def test_against_reference_with_short_last_blocks(n):
    values = normal(n)
    expected = reference.nf4_round_trip(values.double().numpy())
    # 8-bit absmax: off by at most half of 1/127 of the largest deviation from their mean.
    np.testing.assert_allclose(round_trip(values).numpy(), expected, atol=0.012)
    assert nf4_quantize(values).codes.numel() == (n + 1) // 2


def test_blocks_of_zeros_are_zeros():
    values = normal(4, 64)
    values[1] = 0
    back = round_trip(values)
    assert torch.equal(back[1], torch.zeros(64))
    assert back[0].abs().max() > 1
    assert torch.equal(round_trip(torch.zeros(100)), torch.zeros(100))


def test_a_tiny_block_among_large_ones_keeps_its_signs():
    values = normal(256, 64) * 100
    values[7] *= 1e-9
    back = round_trip(values)
    assert (back[7] * values[7] >= 0).all()


def test_packed_bytes_by_hand():
    layer = NF4Linear(nn.Linear(1024, 1024, bias=False))
    n = 1024 * 1024
    # codes n/2; absmax n/64; their scales 4 bytes for 64 * 256 values; one mean
    assert layer.stored_bytes == n // 2 + n // 64 + 4 * n // (64 * 256) + 4
    assert 4.126 < 8 * layer.stored_bytes / n < 4.128
    assert NF4Linear(nn.Linear(10, 7)).stored_bytes == 35 + 2 + 4 + 4 + 4 * 7


def test_forward_and_gradient_use_the_dequantised_weight():
    torch.manual_seed(0)
    layer = NF4Linear(nn.Linear(30, 20))
    x = torch.randn(5, 3, 30, requires_grad=True)
    out = layer(x)
    torch.testing.assert_close(out, x @ layer.weight.T + layer.bias)
    g = torch.randn_like(out)
    out.backward(g)
    torch.testing.assert_close(x.grad, g @ layer.weight)
    assert layer.bias.grad is None


def test_no_float_copy_of_the_weight_is_alive():
    torch.manual_seed(0)
    layer = NF4Linear(nn.Linear(321, 123))
    x = torch.randn(2, 321, requires_grad=True)
    out = layer(x).sum()  # between forward and backward, where autograd would keep it
    gc.collect()
    # type() and not isinstance: that would wake lazy objects elsewhere that warn when touched.
    tensors = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]
    alive = [tensor.numel() for tensor in tensors if tensor.is_floating_point()]
    assert 2 * 321 in alive
    assert 321 * 123 not in alive
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.numel()) or t, lambda t: t
    ):
        out = out + layer(x).sum()
    assert 321 * 123 not in saved
    out.backward()
    assert all(b.numel() < 321 * 123 for b in layer.state_dict().values())


def test_state_dict_round_trip_keeps_every_bit():
    torch.manual_seed(0)
    first, second = NF4Linear(nn.Linear(30, 20)), NF4Linear(nn.Linear(30, 20))
    x = torch.randn(4, 30)
    assert not torch.equal(first(x), second(x))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))


CONVOLUTIONS = {
    "strided": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "grouped": lambda: nn.Conv2d(4, 6, 3, groups=2, dilation=2, bias=False),
    "circular": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
    "same": lambda: SameConv2d(4, 6, 3, stride=2),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_convolution_computes_with_the_dequantised_weight(kind):
    torch.manual_seed(0)
    dense = CONVOLUTIONS[kind]()
    layer = nf4_layer(dense)
    assert isinstance(layer, type(dense))
    assert torch.equal(layer.weight, round_trip(dense.weight))
    assert not torch.equal(layer.weight, dense.weight)
    dense.weight.data.copy_(layer.weight)
    x, wanted = (torch.randn(2, 4, 9, 7).requires_grad_() for _ in range(2))
    wanted.data.copy_(x)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: saved.append(t.numel()) or t, lambda t: t
    ):
        out = layer(x)
    assert layer.weight.numel() not in saved
    expected = dense(wanted)
    assert torch.equal(out, expected)
    g = torch.randn_like(out)
    out.backward(g)
    expected.backward(g)
    torch.testing.assert_close(x.grad, wanted.grad)
    fresh = nf4_layer(CONVOLUTIONS[kind]())
    assert not torch.equal(fresh(x), out)
    fresh.load_state_dict(layer.state_dict())
    assert torch.equal(copy.deepcopy(fresh)(x), out)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_convolution_in_four_bits_is_merged_into_a_plain_one(kind):
    torch.manual_seed(0)
    dense = CONVOLUTIONS[kind]()
    backbone = nn.Sequential(dense)
    wrap(backbone, ["0"], quantize=True)
    generator = torch.Generator().manual_seed(1)
    add_adapter(
        backbone, "a", lambda _, base: make_lora(base, rank=2, alpha=4, generator=generator)
    )
    backbone[0].adapters["a"].lora_B.weight.data.normal_()
    activate(backbone, "a")
    plain = merged(backbone)
    assert type(plain[0]) is type(dense)
    x = torch.randn(2, 4, 9, 7)
    torch.testing.assert_close(plain(x), backbone(x), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(plain(x), backbone[0].base(x), atol=0.1)
    assert parameter_count(backbone[0].base) == parameter_count(dense)


@pytest.mark.parametrize("weight", [torch.tensor([1.0, float("nan")]), torch.empty(0)])
def test_refuses_what_it_cannot_hold(weight):
    with pytest.raises(MethodError, match="finite"):
        nf4_quantize(weight)
