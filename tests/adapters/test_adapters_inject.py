"""Wrapping, the bank of adapters, states, merging."""

import copy

import pytest
import torch
from torch import nn

from lora_cl.adapters import (
    AdaptedLayer,
    NF4Linear,
    activate,
    adapted_layers,
    adapter_modules,
    adapter_state,
    add_adapter,
    assert_all_adapters_have_gradient,
    load_adapter_state,
    make_adalora,
    make_dora,
    make_lora,
    match_targets,
    merged,
    remove_adapter,
    set_trainable,
    wrap,
)
from lora_cl.errors import MethodError

MAKERS = {"lora": make_lora, "dora": make_dora, "adalora": make_adalora}


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU())


def add(backbone, name, kind="lora", trained=False, rank=2):
    generator = torch.Generator().manual_seed(sum(name.encode()))
    add_adapter(
        backbone,
        name,
        lambda _, base: MAKERS[kind](base, rank=rank, alpha=4, generator=generator),
    )
    if trained:
        for adapter in adapter_modules(backbone, name).values():
            for parameter in adapter.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.data.add_(noise, alpha=0.5)


def adapted(kind="lora", quantize=False):
    backbone = mlp()
    wrap(backbone, match_targets(backbone, "all-linear"), quantize=quantize)
    add(backbone, "first", kind, trained=True)
    add(backbone, "other", kind, trained=True)
    return backbone


X = torch.randn(7, 6, generator=torch.Generator().manual_seed(5))


def test_wrapping_changes_no_bit_and_freezes_the_bases_alone():
    backbone = mlp()
    before = backbone(X)
    wrap(backbone, ["0"])
    assert torch.equal(backbone(X), before)
    assert list(adapted_layers(backbone)) == ["0"]
    assert isinstance(backbone[0], AdaptedLayer)
    assert [p.requires_grad for p in backbone.parameters()] == [False, False, True, True]
    backbone.train()
    assert not backbone[0].base.training
    assert backbone[2].training


def test_switching_is_changing_a_name():
    backbone = adapted()
    base = mlp()(X)
    outputs = {}
    for name in ("first", "other"):
        activate(backbone, name)
        outputs[name] = backbone(X)
    assert (outputs["first"] - outputs["other"]).abs().max() > 0.1
    activate(backbone)
    assert torch.equal(backbone(X), base)
    activate(backbone, "first")
    assert torch.equal(backbone(X), outputs["first"])
    activate(backbone, "first", "other")
    assert backbone[0].active == ("first", "other")


def test_training_one_adapter_touches_nothing_else():
    backbone = adapted()
    set_trainable(backbone, "other", False)
    activate(backbone, "first")
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    optimizer = torch.optim.SGD(
        [p for p in backbone.parameters() if p.requires_grad],
        lr=0.1,
        momentum=0.9,
        weight_decay=0.1,
    )
    for _ in range(3):
        optimizer.zero_grad()
        backbone(X).square().sum().backward()
        optimizer.step()
    changed = {k for k, v in backbone.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {f"{i}.adapters.first.lora_{f}.weight" for i in (0, 2) for f in ("A", "B")}


def test_removing_forgets_and_deactivates():
    backbone = adapted()
    activate(backbone, "first", "other")
    remove_adapter(backbone, "first")
    assert backbone[0].active == ("other",)
    assert not any("first" in key for key in backbone.state_dict())
    with pytest.raises(MethodError, match="no adapter 'first'; there are: other"):
        activate(backbone, "first")


def test_a_layer_used_twice_is_replaced_twice():
    shared = nn.Linear(4, 4)
    backbone = nn.Sequential(shared, nn.ReLU(), shared)
    wrap(backbone, match_targets(backbone, "all-linear"))
    assert isinstance(backbone[0], AdaptedLayer)
    assert backbone[2] is backbone[0]


@pytest.mark.parametrize("kind", MAKERS)
def test_state_round_trip(kind):
    backbone = adapted(kind)
    activate(backbone, "first")
    expected = backbone(X)
    state = adapter_state(backbone, "first")
    assert all(not tensor.requires_grad for tensor in state.values())
    fresh = mlp()
    wrap(fresh, ["0", "2"])
    add(fresh, "again", kind)
    activate(fresh, "again")
    assert not torch.equal(fresh(X), expected)
    load_adapter_state(fresh, "again", state)
    assert torch.equal(fresh(X), expected)
    next(iter(state.values())).zero_()
    assert torch.equal(backbone(X), expected)


def test_names_of_the_state_are_pefts():
    keys = {kind: sorted(k for k in adapter_state(adapted(kind), "first")) for kind in MAKERS}
    assert keys["lora"] == [f"{i}.lora_{f}.weight" for i in (0, 2) for f in ("A", "B")]
    assert "0.lora_magnitude_vector" in keys["dora"]
    assert keys["adalora"] == [f"{i}.lora_{f}" for i in (0, 2) for f in ("A", "B", "E")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.lora_A.weight": None}, r"0\.lora_A\.weight is missing from the adapter 'first'"),
        ({"9.lora_A.weight": torch.ones(1)}, r"9\.lora_A\.weight has no place in"),
        ({"2.lora_B.weight": torch.ones(4, 3)}, r"shape \(4, 3\); \(4, 2\) is needed"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_nothing_changes(change, message):
    backbone = adapted()
    before = adapter_state(backbone, "first")
    state = {
        k: v for k, v in ({k: v + 1 for k, v in before.items()} | change).items() if v is not None
    }
    with pytest.raises(MethodError, match=message):
        load_adapter_state(backbone, "first", state)
    after = adapter_state(backbone, "first")
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_an_adalora_state_with_inconsistent_triplets_is_refused():
    backbone = adapted("adalora")
    state = adapter_state(backbone, "first")
    state["0.lora_E"] = state["0.lora_E"][:1]
    with pytest.raises(MethodError, match=r"0\.lora_[AB] has shape"):
        load_adapter_state(backbone, "first", state)


def test_every_adapter_must_get_a_gradient():
    class Skips(nn.Sequential):
        def forward(self, x):
            return self[0](x)

    backbone = adapted()
    activate(backbone, "first")
    backbone(X).sum().backward()
    assert_all_adapters_have_gradient(backbone, "first")
    with pytest.raises(MethodError, match="adapter 'other' of layer 0 gets no gradient"):
        assert_all_adapters_have_gradient(backbone, "other")
    skips = Skips(nn.Linear(6, 5), nn.Linear(5, 4))
    wrap(skips, ["0", "1"])
    add(skips, "task")
    activate(skips, "task")
    skips(X).sum().backward()
    with pytest.raises(MethodError, match=r"layer 1 gets no gradient.*leave it out of targets"):
        assert_all_adapters_have_gradient(skips, "task")
    set_trainable(backbone, "first", False)
    with pytest.raises(MethodError, match="nothing in it is trainable"):
        assert_all_adapters_have_gradient(backbone, "first")


@pytest.mark.parametrize("quantize", [False, True])
@pytest.mark.parametrize("kind", MAKERS)
def test_merged_equals_active_and_leaves_the_original(kind, quantize):
    backbone = adapted(kind, quantize)
    activate(backbone, "first")
    before = copy.deepcopy(backbone.state_dict())
    copied = merged(backbone)
    expected = backbone(X)
    torch.testing.assert_close(
        copied(X), expected, rtol=1e-6, atol=1e-6 * max(1.0, expected.abs().max().item())
    )
    assert [type(m) for m in copied] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU]
    assert list(copied.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    copied[0].weight.data.zero_()
    copied[0].bias.data.zero_()
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())
    assert torch.equal(backbone(X), expected)


def test_merging_with_nothing_active_gives_the_base():
    backbone = adapted()
    assert torch.equal(merged(backbone)(X), mlp()(X))


def test_a_quantised_base_is_the_four_bit_one():
    backbone = adapted(quantize=True)
    assert all(isinstance(layer.base, NF4Linear) for layer in adapted_layers(backbone).values())
    activate(backbone, "first")
    x = X.clone().requires_grad_()
    backbone(x).sum().backward()
    assert x.grad.abs().max() > 0
    assert_all_adapters_have_gradient(backbone, "first")
    fresh = mlp()
    wrap(fresh, ["0", "2"], quantize=True)
    add(fresh, "new")
    activate(fresh)
    expected = fresh(X)
    activate(fresh, "new")
    assert torch.equal(fresh(X), expected)


def test_parameters_of_a_whole_adapter_by_hand():
    backbone = adapted()
    count = sum(t.numel() for t in adapter_state(backbone, "first").values())
    assert count == 2 * (6 + 5) + 2 * (5 + 4)


@pytest.mark.parametrize("name", ["", "a.b", "keys", "forward"])
def test_names_that_cannot_be(name):
    backbone = adapted()
    with pytest.raises(MethodError, match="not allowed"):
        add(backbone, name)


def test_refusals():
    backbone = adapted()
    with pytest.raises(MethodError, match="'first' is there already"):
        add(backbone, "first")
    with pytest.raises(MethodError, match="did you mean 'first'"):
        remove_adapter(backbone, "frist")
    with pytest.raises(MethodError, match="layer '0' is a AdaptedLayer"):
        wrap(backbone, ["0"])
    with pytest.raises(MethodError, match="layer '1' is a ReLU"):
        wrap(mlp(), ["0", "1"])
    with pytest.raises(MethodError, match="layer 'x' is not there"):
        wrap(mlp(), ["x"])
    with pytest.raises(MethodError, match="call wrap first"):
        activate(mlp(), "first")
    with pytest.raises(MethodError, match="layer 0: rank: 0 is not allowed"):
        add(backbone, "new", rank=0)
    assert all("new" not in layer.adapters for layer in adapted_layers(backbone).values())


def test_wrap_refuses_before_it_replaces():
    backbone = mlp()
    with pytest.raises(MethodError):
        wrap(backbone, ["0", "nothing"])
    assert adapted_layers(backbone) == {}
