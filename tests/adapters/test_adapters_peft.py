"""The same numbers as real PEFT, in both directions, and files that real PEFT loads."""

import json
import types
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lora_cl.adapters import (
    PeftAdapter,
    activate,
    adapter_modules,
    adapter_state,
    add_adapter,
    from_peft,
    load_adapter_state,
    make_adalora,
    make_dora,
    make_lora,
    match_targets,
    orthogonality_penalty,
    to_peft,
    wrap,
)
from lora_cl.errors import MethodError, ResultsError

with warnings.catch_warnings():
    # PEFT's own imports, not ours, decide whether something in them is deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", FutureWarning)
    peft = pytest.importorskip("peft")

RANK, ALPHA = 4, 6
KINDS = {
    "lora": ("lora", "lora"),
    "rslora": ("lora", "rslora"),
    "dora": ("dora", "lora"),
    "rsdora": ("dora", "rslora"),
    "adalora": ("adalora", "lora"),
}


class Network(nn.Module):
    def __init__(self, backbone, features):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(features, 3)

    def forward(self, x):
        return self.head(self.backbone(x))


def mlp():
    return Network(nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 5), nn.ReLU()), 5)


def cnn(groups=1):
    return Network(
        nn.Sequential(
            nn.Conv2d(4, 6, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, groups=groups),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * 2 * 2, 5),
        ),
        5,
    )


NETWORKS = {"mlp": (mlp, (6, 7)), "cnn": (cnn, (6, 4, 8, 8))}


def make(kind, scaling, base, generator):
    if kind == "adalora":
        return make_adalora(base, rank=RANK, alpha=ALPHA, generator=generator)
    maker = {"lora": make_lora, "dora": make_dora}[kind]
    return maker(base, rank=RANK, alpha=ALPHA, scaling=scaling, generator=generator)


def our_network(network_name, variant, trained=True, build=None):
    kind, scaling = KINDS[variant]
    build = build or NETWORKS[network_name][0]
    torch.manual_seed(0)
    network = build()
    wrap(network.backbone, match_targets(network.backbone, "all-linear"))
    generator = torch.Generator().manual_seed(1)
    add_adapter(network.backbone, "task", lambda _, base: make(kind, scaling, base, generator))
    activate(network.backbone, "task")
    if trained:
        with torch.no_grad():
            for adapter in adapter_modules(network.backbone, "task").values():
                for parameter in adapter.parameters():
                    parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.4)
            for parameter in network.head.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator))
    return network


def as_peft_adapter(network, variant):
    kind, scaling = KINDS[variant]
    return PeftAdapter(
        kind=kind,
        rank=RANK,
        alpha=ALPHA,
        scaling=scaling,
        state=adapter_state(network.backbone, "task"),
        head=network.head.state_dict(),
    )


def write(folder, adapter):
    config, tensors = to_peft(adapter)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")


def read(folder):
    config = json.loads((folder / "adapter_config.json").read_text())
    return from_peft(config, load_file(folder / "adapter_model.safetensors"))


def plain_network(build):
    torch.manual_seed(0)
    network = build()
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.zero_()
    return network


CASES = [(n, v) for n in NETWORKS for v in KINDS]


def test_number_of_cases():
    assert len(CASES) == 10


@pytest.mark.parametrize(("network_name", "variant"), CASES)
def test_peft_loads_what_we_saved_and_computes_the_same(network_name, variant, tmp_path):
    build, shape = NETWORKS[network_name]
    network = our_network(network_name, variant)
    write(tmp_path, as_peft_adapter(network, variant))
    x = torch.randn(shape)
    theirs = peft.PeftModel.from_pretrained(plain_network(build), tmp_path).eval()
    ours = network.eval()(x)
    torch.testing.assert_close(theirs(x), ours, rtol=1e-6, atol=1e-6 * ours.abs().max().item())
    without = nn.functional.linear(
        plain_network(build).backbone(x), network.head.weight, network.head.bias
    )
    assert (without - ours).abs().max() > 0.01


def peft_config(variant, targets):
    common = {"lora_alpha": ALPHA, "target_modules": targets, "modules_to_save": ["head"]}
    if variant == "adalora":
        return peft.AdaLoraConfig(init_r=RANK, target_r=2, total_step=10, **common)
    kind, scaling = KINDS[variant]
    return peft.LoraConfig(
        r=RANK, use_dora=kind == "dora", use_rslora=scaling == "rslora", **common
    )


@pytest.mark.parametrize(("network_name", "variant"), CASES)
def test_we_load_what_peft_saved_and_compute_the_same(network_name, variant, tmp_path):
    build, shape = NETWORKS[network_name]
    network = our_network(network_name, variant, trained=False)
    targets = [
        f"backbone.{name}" for name in match_targets(plain_network(build).backbone, "all-linear")
    ]
    theirs = peft.get_peft_model(plain_network(build), peft_config(variant, targets))
    with torch.no_grad():
        for parameter in (p for p in theirs.parameters() if p.requires_grad):
            parameter.add_(torch.randn(parameter.shape), alpha=0.4)
    theirs.eval().save_pretrained(tmp_path)
    loaded = read(tmp_path)
    assert (loaded.kind, loaded.scaling) == KINDS[variant]
    assert (loaded.rank, loaded.alpha) == (RANK, ALPHA)
    assert sorted(loaded.targets) == sorted(t.removeprefix("backbone.") for t in targets)
    load_adapter_state(network.backbone, "task", loaded.state)
    network.head.load_state_dict(loaded.head)
    x = torch.randn(shape)
    expected = theirs(x)
    torch.testing.assert_close(
        network(x), expected, rtol=1e-6, atol=1e-6 * expected.abs().max().item()
    )


@pytest.mark.parametrize(("network_name", "variant"), CASES)
def test_our_own_round_trip_keeps_every_bit(network_name, variant, tmp_path):
    network = our_network(network_name, variant)
    write(tmp_path, as_peft_adapter(network, variant))
    loaded = read(tmp_path)
    fresh = our_network(network_name, variant, trained=False)
    load_adapter_state(fresh.backbone, "task", loaded.state)
    fresh.head.load_state_dict(loaded.head)
    x = torch.randn(NETWORKS[network_name][1])
    assert torch.equal(fresh(x), network(x))


@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_grouped_convolutions_in_peft(variant, tmp_path):
    network = our_network("cnn", variant, build=lambda: cnn(groups=2))
    adapter = as_peft_adapter(network, variant)
    assert adapter.state["2.lora_A.weight"].shape == (4, 3, 3, 3)
    write(tmp_path, adapter)
    assert all(torch.equal(read(tmp_path).state[k], v) for k, v in adapter.state.items())
    if variant == "dora":  # PEFT's DoRA has no norm for a grouped convolution
        return
    with pytest.warns(UserWarning, match="groups > 1"):
        theirs = peft.PeftModel.from_pretrained(plain_network(lambda: cnn(groups=2)), tmp_path)
    x = torch.randn(6, 4, 8, 8)
    ours = network(x)
    torch.testing.assert_close(
        theirs.eval()(x), ours, rtol=1e-6, atol=1e-6 * ours.abs().max().item()
    )


@pytest.mark.parametrize("alive", [{"0": [0, 3], "2": [1]}, {"0": [0, 1, 2, 3], "2": []}])
def test_compacted_adalora_in_peft(alive, tmp_path):
    network = our_network("mlp", "adalora")
    x = torch.randn(6, 7)
    for layer, adapter in adapter_modules(network.backbone, "task").items():
        pruned = [i for i in range(RANK) if i not in alive[layer]]
        adapter.lora_E.data[pruned] = 0
    before = network(x)
    kept = {n: a.compact() for n, a in adapter_modules(network.backbone, "task").items()}
    assert kept == {layer: len(indices) for layer, indices in alive.items()}
    torch.testing.assert_close(network(x), before, rtol=1e-6, atol=1e-6)
    adapter = as_peft_adapter(network, "adalora")
    assert adapter.state["0.lora_A"].shape == (kept["0"], 7)
    write(tmp_path, adapter)
    with warnings.catch_warnings():
        # PEFT checks AdaLoRA's rank_pattern as if it were LoRA's, then uses it all the same.
        warnings.filterwarnings("ignore", message="The following rank_pattern keys")
        # It initialises the empty matrices of a layer that kept no triplet.
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
        theirs = peft.PeftModel.from_pretrained(plain_network(mlp), tmp_path).eval()
    torch.testing.assert_close(theirs(x), before, rtol=1e-6, atol=2e-6)
    fresh = our_network("mlp", "adalora", trained=False)
    load_adapter_state(fresh.backbone, "task", read(tmp_path).state)
    fresh.head.load_state_dict(network.head.state_dict())
    assert torch.equal(fresh(x), network(x))


class WithLoss(Network):
    """What AdaLoRA's penalty needs in PEFT: an output with a loss that it can add to."""

    def forward(self, x):
        return types.SimpleNamespace(loss=super().forward(x).sum() * 0)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("network_name", NETWORKS)
def test_the_orthogonality_penalty_is_that_of_peft(network_name, trained, tmp_path):
    build, shape = NETWORKS[network_name]
    network = our_network(network_name, "adalora", trained)
    write(tmp_path, as_peft_adapter(network, "adalora"))
    plain = plain_network(build)
    plain.__class__ = WithLoss
    theirs = peft.PeftModel.from_pretrained(plain, tmp_path, is_trainable=True)
    weight = theirs.peft_config["default"].orth_reg_weight
    assert weight == 0.5
    adapters = adapter_modules(network.backbone, "task").values()
    factors = [(adapter.lora_B, adapter.lora_A) for adapter in adapters]
    ours = weight * orthogonality_penalty(factors, "norm")
    expected = theirs.base_model(torch.randn(shape)).loss
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)
    ours.backward()
    expected.backward()
    gradients = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    compared = 0
    for layer, adapter in adapter_modules(network.backbone, "task").items():
        for name in ("lora_A", "lora_B"):
            (gradient,) = (g for n, g in gradients.items() if f"backbone.{layer}.{name}" in n)
            torch.testing.assert_close(adapter.get_parameter(name).grad, gradient)
            compared += 1
    assert compared == 2 * len(factors) >= 4


def small(kind="lora", rank=2, **state):
    state = state or {"0.lora_A.weight": torch.ones(2, 7), "0.lora_B.weight": torch.ones(9, 2)}
    return PeftAdapter(kind=kind, rank=rank, alpha=4, state=dict(state), head={})


def test_what_peft_cannot_hold_is_refused():
    with pytest.raises(MethodError, match=r"0\.lora_B\.weight is missing"):
        to_peft(small(**{"0.lora_A.weight": torch.ones(2, 7)}))
    with pytest.raises(MethodError, match="does not fit rank 3"):
        to_peft(small(rank=3))
    with pytest.raises(MethodError, match="has no place"):
        to_peft(small(kind="adalora"))
    state = {f"a.head.b.{k[2:]}": v for k, v in small().state.items()}
    with pytest.raises(MethodError, match="called head"):
        to_peft(small(**state))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not one of LORA, ADALORA"),
        ({"r": 0}, "r 0 is no positive int"),
        ({"r": "2"}, "r '2' is no positive int"),
        ({"r": 3}, "does not fit rank 3"),
        ({"lora_alpha": None}, "lora_alpha None"),
        ({"bias": "all"}, "bias 'all'"),
        ({"rank_pattern": {"x": 1}}, "rank_pattern"),
        ({"use_dora": True}, "lora_magnitude_vector is missing"),
    ],
)
def test_a_foreign_config_is_refused(change, message):
    config, tensors = to_peft(small())
    with pytest.raises(ResultsError, match=message):
        from_peft(config | change, tensors)


def test_foreign_tensors_are_refused():
    config, tensors = to_peft(small())
    with pytest.raises(ResultsError, match=r"decoder\.0 is neither"):
        from_peft(config, tensors | {"base_model.model.decoder.0": torch.ones(1)})
    wide = {"0.lora_A.weight": torch.ones(2, 4, 3, 3), "0.lora_B.weight": torch.ones(6, 1, 1, 1)}
    config, tensors = to_peft(small(**wide))
    tensors["base_model.model.backbone.0.lora_A.weight"].fill_(1.0)
    with pytest.raises(ResultsError, match="across the groups"):
        from_peft(config, tensors)
