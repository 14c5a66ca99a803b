"""Networks, heads, modes and fingerprints."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lora_cl.errors import ConfigError
from lora_cl.models import (
    Network,
    TaskNetwork,
    build_network,
    content_hash,
    fingerprint,
    known_hashes,
    trainable_only,
    training_mode,
)
from lora_cl.models.cnn import Cnn, CnnOptions
from lora_cl.models.mlp import Mlp, MlpOptions


class NamedMlpOptions(MlpOptions):
    name: str = "mlp"


def small_network() -> Network:
    network = build_network(NamedMlpOptions(hidden=[6, 5]), torch.Size((1, 2, 2)), seed=3)
    for head in ("a", "b"):
        network.add_head(head, 2, seed=7)
    return network


def test_a_seed_is_a_network_and_moves_no_other_stream():
    torch.manual_seed(11)
    before = torch.get_rng_state()
    one, two = small_network(), small_network()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    other = build_network(NamedMlpOptions(hidden=[6, 5]), torch.Size((1, 2, 2)), seed=4)
    assert not torch.equal(one.backbone.linear1.weight, other.backbone.linear1.weight)
    # 4*6+6 + 6*5+5 in the backbone, 2*(5*2+2) in the heads.
    assert sum(p.numel() for p in one.parameters()) == 30 + 35 + 24
    assert one.features == 5


def test_heads_side_by_side_compete_only_within_their_task():
    network = small_network()
    together = TaskNetwork(network.backbone, list(network.heads.values()), {0: 0, 1: 2})
    logits = together(torch.rand(3, 1, 2, 2))
    assert logits.shape == (3, 4)
    inf = float("inf")
    right = torch.tensor([[0.0, 0, -inf, -inf]] * 2 + [[-inf, -inf, 0, 0]] * 2)
    assert torch.equal(together.same_task, right)
    assert "same_task" not in together.state_dict()


def test_outputs_cut_a_shared_head():
    network = small_network()
    view = TaskNetwork(network.backbone, [network.heads["a"]], {0: 0}, outputs=1)
    assert view(torch.rand(3, 1, 2, 2)).shape == (3, 1)


def test_a_fingerprint_sees_every_bit_that_is_used_and_no_other():
    network = small_network()
    view = TaskNetwork(network.backbone, [network.heads["a"]], {0: 0})
    first = fingerprint(view, {})
    assert first == fingerprint(view, known_hashes(network))
    with torch.no_grad():
        network.heads["b"].weight.add_(1.0)
    assert fingerprint(view, {}) == first
    changed = 0
    for name, tensor in view.state_dict(keep_vars=True).items():
        flat = tensor.data.view(-1)
        kept = flat[0].clone()
        flat[0] = torch.nextafter(kept, kept + 1)
        assert fingerprint(view, {}) != first, name
        flat[0] = kept
        assert fingerprint(view, {}) == first
        changed += 1
    assert changed == 6
    assert fingerprint(TaskNetwork(network.backbone, [network.heads["a"]], {0: 0}, 1), {}) != first


def test_content_hash_tells_type_and_shape_apart():
    zeros = torch.zeros(4)
    hashes = {content_hash(zeros), content_hash(zeros.view(2, 2)), content_hash(zeros.int())}
    assert len(hashes) == 3


def test_frozen_modules_stay_in_eval_mode():
    backbone = Cnn(CnnOptions(channels=[3], hidden=4), torch.Size((1, 4, 4)))
    backbone.append(nn.Dropout(0.5))
    head = nn.Linear(4, 2)
    view = TaskNetwork(backbone, [head], {0: 0})
    trainable_only(view, [head])
    training_mode(view)
    assert head.training
    assert not any(module.training for module in backbone.modules())
    statistics = backbone.norm1.running_mean.clone()
    view(torch.rand(8, 1, 4, 4))
    assert torch.equal(backbone.norm1.running_mean, statistics)
    trainable_only(view, [view])
    training_mode(view)
    assert all(module.training for module in view.modules())


def test_trainable_only_goes_by_identity():
    network = small_network()
    trainable_only(network, [network.backbone.linear2])
    trains = [name for name, p in network.named_parameters() if p.requires_grad]
    assert trains == ["backbone.linear2.weight", "backbone.linear2.bias"]


def test_a_cnn_says_what_it_cannot_take():
    with pytest.raises(ConfigError, match=r"needs images \(C, H, W\)"):
        Cnn(CnnOptions(), torch.Size((5,)))
    with pytest.raises(ConfigError, match="2 blocks are too many for images of 3 x 3"):
        Cnn(CnnOptions(channels=[2, 2]), torch.Size((1, 3, 3)))


def test_layers_have_the_names_that_the_documents_use():
    mlp = Mlp(MlpOptions(hidden=[3, 2], dropout=0.1), torch.Size((4,)))
    names = ["flatten", "linear1", "relu1", "dropout1", "linear2", "relu2", "dropout2"]
    assert [name for name, _ in mlp.named_children()] == names
