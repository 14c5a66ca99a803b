"""Packed attention taken apart: torch's numbers, and adapters that are really used."""

import copy
import warnings

import pytest
import torch
from torch import nn

from lora_cl.adapters import (
    NF4Linear,
    UnpackedAttention,
    activate,
    adapted_layers,
    adapter_modules,
    add_adapter,
    assert_all_adapters_have_gradient,
    make_adalora,
    make_dora,
    make_lora,
    match_targets,
    merged,
    wrap,
)
from lora_cl.adapters.attention import unpackable

with warnings.catch_warnings():
    # PEFT's own imports, not ours, decide whether something in them is deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", FutureWarning)
    peft = pytest.importorskip("peft")

MAKERS = {"lora": make_lora, "dora": make_dora, "adalora": make_adalora}


def attention(E=12, heads=3, **options):
    torch.manual_seed(0)
    made = nn.MultiheadAttention(E, heads, **options)
    for bias in (made.in_proj_bias, made.out_proj.bias):
        if bias is not None:
            nn.init.normal_(bias)
    return made


def tokens(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 12), (3, 5, 12), (17, 33, 96)])
def test_self_attention_is_torchs_to_the_last_bit(batch_first, bias, shape):
    packed = attention(shape[2], batch_first=batch_first, bias=bias)
    unpacked = UnpackedAttention(copy.deepcopy(packed))
    x, y = tokens(*shape).requires_grad_(), tokens(*shape).requires_grad_()
    right, _ = packed(x, x, x, need_weights=False)
    out, weights = unpacked(y, y, y, need_weights=False)
    assert torch.equal(out, right)
    assert weights is None
    right.square().sum().backward()
    out.square().sum().backward()
    torch.testing.assert_close(y.grad, x.grad)
    torch.testing.assert_close(unpacked.in_proj.weight.grad, packed.in_proj_weight.grad)


PADDING = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False, True, True, True, True]])
FUTURE = torch.triu(torch.ones(5, 5), 1).bool()
CALLS = {
    "weights": {},
    "weights of each head": {"average_attn_weights": False},
    "padding": {"key_padding_mask": PADDING},
    "padding, no weights": {"key_padding_mask": PADDING, "need_weights": False},
    "mask": {"attn_mask": FUTURE},
    "float mask": {"attn_mask": tokens(5, 5, seed=4), "need_weights": False},
    "mask of each head": {"attn_mask": FUTURE.expand(9, 5, 5), "need_weights": False},
    "causal": {"attn_mask": FUTURE, "is_causal": True, "need_weights": False},
    "both masks": {
        "attn_mask": FUTURE,
        "is_causal": True,
        "key_padding_mask": PADDING,
        "need_weights": False,
    },
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("cross", [False, True])
def test_every_way_to_call_it(call, cross):
    packed = attention(batch_first=True)
    unpacked = UnpackedAttention(copy.deepcopy(packed))
    q = tokens(3, 5, 12)
    k, v = (tokens(3, 5, 12, seed=1), tokens(3, 5, 12, seed=2)) if cross else (q, q)
    right, ours = packed(q, k, v, **call), unpacked(q, k, v, **call)
    for a, b in zip(ours, right, strict=True):
        torch.testing.assert_close(a, b)
    assert (ours[1] is None) == (call.get("need_weights") is False)


def test_a_single_sequence_and_dropout():
    packed = attention(dropout=0.5)
    unpacked = UnpackedAttention(copy.deepcopy(packed))
    x = tokens(5, 12)
    for a, b in zip(unpacked.eval()(x, x, x), packed.eval()(x, x, x), strict=True):
        torch.testing.assert_close(a, b)
    unpacked.train()
    first, second = (unpacked(x, x, x, need_weights=False)[0] for _ in range(2))
    assert not torch.equal(first, second)


def test_what_can_be_taken_apart():
    class Own(nn.MultiheadAttention):
        def forward(self, x):
            return x

    assert unpackable(attention())
    for odd in ({"kdim": 4}, {"add_bias_kv": True}, {"add_zero_attn": True}):
        assert not unpackable(nn.MultiheadAttention(8, 2, **odd))
    assert not unpackable(Own(8, 2))
    assert not unpackable(nn.Linear(8, 8))


def encoder(norm_first=False, **options):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(
        8, 2, 16, dropout=0.0, batch_first=True, norm_first=norm_first
    )
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first).eval()


def adapted(kind, targets="all-linear", trained=False):
    model = encoder()
    wrap(model, match_targets(model, targets))
    generator = torch.Generator().manual_seed(1)
    add_adapter(
        model, "task", lambda _, base: MAKERS[kind](base, rank=2, alpha=4, generator=generator)
    )
    activate(model, "task")
    if trained:
        adapters = adapter_modules(model, "task").values()
        for parameter in (p for adapter in adapters for p in adapter.parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data.add_(noise, alpha=0.3)
    return model


@pytest.mark.parametrize("kind", MAKERS)
def test_an_untrained_adapter_leaves_every_bit(kind):
    model = adapted(kind)
    assert len(adapted_layers(model)) == 2 * 4
    x = tokens(3, 5, 8)
    ours = model(x)
    activate(model)
    assert torch.equal(model(x), ours)
    # Torch's linear layers round by whether they are frozen; in train mode its encoders call them.
    assert torch.equal(encoder().requires_grad_(False).train()(x), model(x))


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("targets", ["attention", ["*linear*"], "all-linear"])
def test_evaluation_without_gradients_uses_the_adapters(kind, targets):
    """Torch's encoders would compute with the base's weights in eval mode."""
    model = adapted(kind, targets, trained=True)
    x, padding = tokens(3, 5, 8), PADDING
    model.train()
    right = model(x, src_key_padding_mask=padding)
    without = encoder().train()(x, src_key_padding_mask=padding)
    model.eval()
    with torch.inference_mode():
        found = model(x, src_key_padding_mask=padding)
    torch.testing.assert_close(found, right)
    assert (found - without)[~padding].abs().max() > 0.05


@pytest.mark.parametrize("kind", MAKERS)
def test_merged_attention_computes_the_same(kind):
    model = adapted(kind, trained=True)
    x = tokens(3, 5, 8)
    plain = merged(model)
    assert not adapted_layers(plain)
    torch.testing.assert_close(plain(x), model(x), rtol=1e-4, atol=1e-5)


def test_every_factor_gets_a_gradient():
    model = adapted("lora", "attention", trained=True)
    model(tokens(3, 5, 8)).square().sum().backward()
    assert_all_adapters_have_gradient(model, "task")
    assert set(adapter_modules(model, "task")) == {
        f"layers.{i}.self_attn.{name}_proj" for i in (0, 1) for name in ("in", "out")
    }


def test_a_four_bit_base():
    model = encoder()
    wrap(model, ["layers.0.self_attn"], quantize=True)
    attention = model.layers[0].self_attn
    assert type(attention.in_proj.base) is type(attention.out_proj.base) is NF4Linear
    x = tokens(3, 5, 8)
    assert 0.001 < (model(x) - encoder()(x)).abs().max() < 0.5


def test_lora_is_that_of_peft():
    """But for ``out_proj``, whose change PEFT adds twice (0.21; mended in its pull request 3774):
    when this fails, PEFT's files can hold these adapters."""
    ours = adapted("lora", "attention", trained=True)
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["self_attn"])
    theirs = peft.get_peft_model(encoder(), config)
    adapters, copied = adapter_modules(ours, "task"), 0
    for name, parameter in theirs.named_parameters():
        if parameter.requires_grad:
            place = name.removeprefix("base_model.model.").replace(".base_layer.out_proj", ".out")
            place = place.replace("self_attn.lora", "self_attn.in.lora").replace(".default", "")
            layer, _, factor = place.partition(".lora_")
            value = adapters[f"{layer}_proj"].get_parameter(f"lora_{factor}").detach()
            twice = layer.endswith(".out") and factor == "B.weight"
            parameter.data.copy_(value / 2 if twice else value)
            copied += 1
    assert copied == 2 * 4
    x = tokens(3, 5, 8)
    right = theirs.train()(x)
    torch.testing.assert_close(ours(x), right, rtol=1e-5, atol=1e-5)
    assert (right - encoder()(x)).abs().max() > 0.1
