"""LoRA, DoRA and AdaLoRA's forward against plain numpy, and what must hold to the bit."""

import math

import adapters_reference as reference
import numpy as np
import pytest
import torch
from torch import nn

from lora_cl.adapters import (
    AdaptedLayer,
    lora_delta,
    lora_scale,
    make_adalora,
    make_dora,
    make_lora,
)
from lora_cl.errors import MethodError

MAKERS = {"lora": make_lora, "dora": make_dora, "adalora": make_adalora}
BASES = {
    "linear": lambda: nn.Linear(7, 5),
    "linear without bias": lambda: nn.Linear(7, 5, bias=False),
    "conv": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "conv without bias": lambda: nn.Conv2d(4, 6, 3, bias=False),
    "conv dilated": lambda: nn.Conv2d(4, 6, 3, padding=2, dilation=2),
    "conv 1x1": lambda: nn.Conv2d(4, 6, 1),
    "conv circular": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
    "conv grouped": lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def make_case(base_name, kind, rank=4):
    torch.manual_seed(0)
    base = BASES[base_name]()
    adapter = MAKERS[kind](base, rank=rank, alpha=6, generator=generator())
    x = torch.randn(3, 7) if isinstance(base, nn.Linear) else torch.randn(3, 4, 8, 8)
    layer = AdaptedLayer(base)
    layer.adapters["task"] = adapter
    layer.active = ("task",)
    return layer, adapter, x


def perturb(adapter):
    for i, parameter in enumerate(adapter.parameters()):
        noise = torch.randn(parameter.shape, generator=generator(i))
        parameter.data.add_(noise, alpha=0.5)


def possible(base_name, kind):
    return not (kind == "adalora" and base_name == "conv grouped")


CASES = [(b, k) for b in BASES for k in MAKERS if possible(b, k)]


def test_number_of_cases():
    assert len(CASES) == 23


@pytest.mark.parametrize(("base_name", "kind"), CASES)
def test_fresh_adapter_leaves_every_bit_of_the_output(base_name, kind):
    layer, _, x = make_case(base_name, kind)
    assert torch.equal(layer(x), layer.base(x))


@pytest.mark.parametrize(("base_name", "kind"), CASES)
def test_trained_adapter_with_b_zero_leaves_every_bit(base_name, kind):
    layer, adapter, x = make_case(base_name, kind)
    adapter.get_parameter("lora_A" if kind == "adalora" else "lora_A.weight").data.mul_(37.0)
    assert torch.equal(layer(x), layer.base(x))


@pytest.mark.parametrize(("base_name", "kind"), CASES)
def test_merged_layer_computes_the_same(base_name, kind):
    layer, adapter, x = make_case(base_name, kind)
    perturb(adapter)
    before = layer.base.weight.clone()
    plain = layer.merged()
    assert type(plain) in (nn.Linear, nn.Conv2d)
    difference = (plain(x) - layer(x)).abs().max() / layer(x).abs().max()
    assert difference < 1e-6
    assert (layer(x) - layer.base(x)).abs().max() > 0.1
    assert torch.equal(layer.base.weight, before)


@pytest.mark.parametrize("kind", MAKERS)
def test_linear_forward_against_reference(kind):
    layer, adapter, x = make_case("linear", kind, rank=3)
    perturb(adapter)
    W0, bias = (t.detach().double().numpy() for t in (layer.base.weight, layer.base.bias))
    p = {k: v.double().numpy() for k, v in adapter.state_dict().items()}
    x64 = x.double().numpy()
    if kind == "lora":
        expected = reference.lora_forward(
            x64, W0, bias, p["lora_A.weight"], p["lora_B.weight"], 6 / 3
        )
    elif kind == "dora":
        expected = reference.dora_forward(
            x64, W0, bias, p["lora_A.weight"], p["lora_B.weight"], 2.0, p["lora_magnitude_vector"]
        )
    else:
        expected = reference.adalora_forward(
            x64, W0, bias, p["lora_B"], p["lora_E"][:, 0], p["lora_A"], 6 / (3 + 1e-5)
        )
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=2e-6, atol=2e-6)


def test_grouped_convolution_against_reference():
    layer, adapter, x = make_case("conv grouped", "lora")
    perturb(adapter)
    assert adapter.lora_A.weight.shape == (4, 2, 3, 3)
    assert adapter.lora_B.weight.shape == (6, 2, 1, 1)
    A, B = (f.weight.detach().double().numpy() for f in (adapter.lora_A, adapter.lora_B))
    delta = reference.conv_delta(A, B, 6 / 4, groups=2)
    np.testing.assert_allclose(
        lora_delta(adapter.lora_A.weight, adapter.lora_B.weight, 6 / 4).detach(), delta, atol=1e-6
    )
    W = layer.base.weight.double().numpy() + delta
    expected = reference.conv2d(x.double().numpy(), W, layer.base.bias.double().numpy(), 1, 1, 1, 2)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7), (2, 2, 2, 7), (0, 7)])
def test_any_leading_shape(shape):
    layer, adapter, _ = make_case("linear", "lora")
    perturb(adapter)
    x = torch.randn(shape)
    expected = layer.base(x) + 1.5 * (x @ adapter.lora_A.weight.T @ adapter.lora_B.weight.T)
    assert layer(x).shape == (*shape[:-1], 5)
    torch.testing.assert_close(layer(x), expected, rtol=2e-6, atol=2e-6)


def test_gradients_against_the_plain_formula():
    layer, adapter, x = make_case("linear", "lora")
    perturb(adapter)
    x.requires_grad_()
    layer(x).square().sum().backward()
    got = [x.grad, adapter.lora_A.weight.grad, adapter.lora_B.weight.grad]
    x2, A, B = (
        t.detach().clone().requires_grad_()
        for t in (x, adapter.lora_A.weight, adapter.lora_B.weight)
    )
    W = layer.base.weight + 1.5 * B @ A
    (x2 @ W.T + layer.base.bias).square().sum().backward()
    for ours, expected in zip(got, [x2.grad, A.grad, B.grad], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_scales():
    assert lora_scale(16, 4) == 4.0
    assert lora_scale(16, 4, "rslora") == 8.0


@pytest.mark.parametrize(("kind", "extra"), [("lora", 0), ("dora", 5), ("adalora", 4)])
def test_parameter_counts_by_hand(kind, extra):
    _, adapter, _ = make_case("linear", kind)
    assert sum(p.numel() for p in adapter.parameters()) == 4 * (7 + 5) + extra


def test_gaussian_init_has_standard_deviation_one_over_r():
    adapter = make_lora(nn.Linear(5000, 3), rank=8, alpha=1, generator=generator(), init="gaussian")
    assert 0.123 < adapter.lora_A.weight.std() < 0.127  # 1/8, 40 000 draws
    assert adapter.lora_B.weight.count_nonzero() == 0


def test_kaiming_init_is_uniform_within_one_over_root_d_in():
    adapter = make_lora(nn.Linear(400, 3), rank=64, alpha=1, generator=generator(), init="kaiming")
    A = adapter.lora_A.weight
    assert 0.0499 < A.abs().max() <= 0.05  # 1 / sqrt(400)
    assert 0.0286 < A.std() < 0.0291  # 0.05 / sqrt(3)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_rows_of_a_are_as_long_at_every_rank_unless_asked_for(kind):
    def length(rank, **init):
        adapter = MAKERS[kind](nn.Linear(900, 3), rank=rank, alpha=1, generator=generator(), **init)
        return adapter.lora_A.weight.norm(dim=1).mean().item()

    # 30 * 1/30 / sqrt(3) = 0.577 at any rank; with gaussian sqrt(900) / r.
    assert [length(rank) for rank in (1, 8, 64)] == pytest.approx([3**-0.5] * 3, rel=0.05)
    lengths = [length(rank, init="gaussian") for rank in (1, 8, 64)]
    assert lengths == pytest.approx([30, 30 / 8, 30 / 64], rel=0.05)


@pytest.mark.parametrize("kind", MAKERS)
def test_init_comes_from_the_generator_alone(kind):
    base = nn.Linear(7, 5)
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    first = MAKERS[kind](base, rank=2, alpha=2, generator=generator(3)).state_dict()
    assert torch.equal(state, torch.random.get_rng_state())
    torch.manual_seed(2)
    second = MAKERS[kind](base, rank=2, alpha=2, generator=generator(3)).state_dict()
    other = MAKERS[kind](base, rank=2, alpha=2, generator=generator(4)).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_merging_draws_no_random_number():
    layer, _, _ = make_case("linear", "lora")
    state = torch.random.get_rng_state()
    layer.merged()
    assert torch.equal(state, torch.random.get_rng_state())


def test_base_is_frozen_and_stays_in_eval_mode():
    layer, _, x = make_case("linear", "lora")
    layer.train()
    assert layer.training
    assert not layer.base.training
    assert layer.adapters["task"].training
    layer(x).sum().backward()
    assert all(p.grad is None and not p.requires_grad for p in layer.base.parameters())


def test_from_base_takes_a_cache_and_never_writes_to_it():
    layer, adapter, x = make_case("linear", "lora")
    perturb(adapter)
    cache = layer.base(x)
    before = cache.clone()
    assert torch.equal(layer.from_base(x, cache), layer(x))
    assert torch.equal(cache, before)


def test_dora_norm_is_a_constant_to_the_gradient():
    layer, adapter, x = make_case("linear", "dora")
    perturb(adapter)
    layer(x).sum().backward()
    A, B = (f.weight.detach().clone().requires_grad_() for f in (adapter.lora_A, adapter.lora_B))
    m = adapter.lora_magnitude_vector.detach().clone().requires_grad_()
    V = layer.base.weight + 1.5 * B @ A
    attached = V.norm(dim=1)
    ((m / attached.detach())[:, None] * V @ x.T).sum().backward(retain_graph=True)
    detached_gradient = B.grad.clone()
    torch.testing.assert_close(adapter.lora_B.weight.grad, detached_gradient, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(adapter.lora_A.weight.grad, A.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(adapter.lora_magnitude_vector.grad, m.grad, rtol=1e-5, atol=1e-5)
    B.grad = None
    ((m / attached)[:, None] * V @ x.T).sum().backward()
    assert (B.grad - detached_gradient).abs().max() > 0.01


def test_dora_leaves_the_bias_alone():
    layer, adapter, x = make_case("linear", "dora")
    adapter.lora_magnitude_vector.data.mul_(3.0)
    expected = 3 * (x @ layer.base.weight.T) + layer.base.bias
    torch.testing.assert_close(layer(x), expected, rtol=2e-6, atol=2e-6)


def test_dora_survives_a_row_of_zeros():
    torch.manual_seed(0)
    base = nn.Linear(7, 5)
    base.weight.data[2] = 0
    adapter = make_dora(base, rank=2, alpha=2, generator=generator())
    x = torch.randn(3, 7)
    out = adapter(x, base(x), base)
    assert torch.equal(out, base(x))
    out.square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in adapter.parameters())


def test_adapters_apply_in_the_order_of_active():
    layer, first, x = make_case("linear", "lora")
    perturb(first)
    second = make_lora(layer.base, rank=2, alpha=2, generator=generator(9))
    second.lora_B.weight.data.normal_(generator=generator(10))
    layer.adapters["second"] = second
    layer.active = ("task", "second")
    expected = layer.base(x) + sum(
        x @ lora_delta(a.lora_A.weight, a.lora_B.weight, a.scale).T for a in (first, second)
    )
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.merged()(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "base", "arguments", "message"),
    [
        ("lora", nn.Linear(3, 3), {"rank": 0}, "rank: 0 is not allowed"),
        ("lora", nn.Linear(3, 3), {"rank": 1, "init": "zero"}, "kaiming, gaussian"),
        ("lora", nn.Conv2d(4, 4, 3, groups=2), {"rank": 3}, "multiple of 2"),
        ("adalora", nn.Conv2d(4, 4, 3, groups=2), {"rank": 2}, "groups"),
    ],
)
def test_refusals(kind, base, arguments, message):
    with pytest.raises(MethodError, match=message):
        MAKERS[kind](base, alpha=1, generator=generator(), **arguments)


def test_training_forward_never_forms_the_product():
    """B A of a 300 x 300 layer would be 90 000 numbers; nothing saved or made is that large."""
    base = nn.Linear(300, 300)
    layer = AdaptedLayer(base)
    layer.adapters["task"] = make_lora(base, rank=2, alpha=2, generator=generator())
    layer.active = ("task",)
    sizes = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and not func.is_view:
                sizes.append(result.numel())
            return result

    with Sizes():
        layer(torch.ones(4, 300)).sum().backward()
    assert len(sizes) > 5
    assert max(sizes) <= 4 * 300
    assert math.prod(base.weight.shape) == 90_000
