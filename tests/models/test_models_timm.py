from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from image_cases import backbone
from safetensors.torch import save_file

from lora_cl.data.weights import HubFolder
from lora_cl.errors import ConfigError
from lora_cl.models.same import SameConv2d
from lora_cl.models.timm import Timm, TimmOptions

timm = pytest.importorskip("timm")


@pytest.mark.parametrize(
    ("model", "features"),
    [("test_efficientnet", 256), ("test_resnet", 96), ("test_vit", 64), ("test_convnext", 64)],
)
def test_features_are_pooled_and_the_same_for_a_seed(model, features):
    net, same = (backbone("timm", model=model, size=32) for _ in range(2))
    x = torch.rand(2, 1, 16, 16)
    assert net(x).shape == (2, features)
    assert torch.equal(net(x), same(x))


def test_convolutions_padded_like_tensorflow_compute_as_timms():
    theirs = timm.create_model("tf_efficientnet_lite0", num_classes=0).eval()
    net = backbone("timm", model="tf_efficientnet_lite0")
    theirs.load_state_dict(net.network.state_dict())
    assert sum(isinstance(module, SameConv2d) for module in net.modules()) == 5
    x = torch.rand(2, 3, 15, 16)
    assert torch.equal(net.network(x), theirs(x))


@pytest.mark.parametrize(
    ("options", "key", "message"),
    [
        ({"model": "test_resnat"}, "model.model", r"did you mean 'test_resnet'\?"),
        ({"model": "hf-hub:a/b"}, "model.model", "timm has no model called"),
        ({"model": "resnet18.a"}, "model.model", "no weights called 'resnet18.a'"),
        ({"model": "test_vit"}, "model.size", "test_vit cannot .* 7 x 7"),
        ({"weights": "a.bin"}, "model.weights", "a pickle, which can run code"),
        ({"weights": "DEFAULT"}, "model.weights", "neither null, nor pretrained, nor"),
    ],
)
def test_what_is_refused(options, key, message):
    with pytest.raises(ConfigError, match=message) as caught:
        backbone("timm", (1, 7, 7), **options)
    assert caught.value.key == key
    assert "\n" not in str(caught.value)


def test_a_file_of_your_own_at_another_size(tmp_path: Path):
    torch.manual_seed(3)
    theirs = timm.create_model("test_vit").eval()
    save_file(theirs.state_dict(), tmp_path / "mine.safetensors")
    file = str(tmp_path / "mine.safetensors")
    side = theirs.pretrained_cfg["input_size"][-1]
    x = torch.rand(1, 3, side, side)
    net = backbone("timm", (3, side, side), model="test_vit", weights=file)
    mean, std = (
        torch.tensor(theirs.pretrained_cfg[name]).view(3, 1, 1) for name in ("mean", "std")
    )
    features = theirs.forward_head(theirs.forward_features((x - mean) / std), pre_logits=True)
    assert torch.equal(net(x), features)
    small = backbone("timm", model="test_vit", weights=file, size=32)
    assert small(torch.rand(2, 1, 16, 16)).shape == (2, 64)
    with pytest.raises(ConfigError, match=r"the weights do not fit: .* is missing"):
        backbone("timm", model="test_vit2", weights=file)


def test_published_weights_come_from_the_hub():
    weights = Timm.pretrained(TimmOptions(model="resnet18.a1_in1k", weights="pretrained"))
    assert weights == HubFolder("timm/resnet18.a1_in1k")
    with pytest.raises(ConfigError, match="no weights of botnet50ts_256 on the Hugging Face hub"):
        Timm.pretrained(TimmOptions(model="botnet50ts_256", weights="pretrained"))


def test_without_timm_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    for name in ("timm", "efficientnet-lite0"):
        with pytest.raises(
            ConfigError, match=rf"model {name} needs timm: pip install '.*images\]'"
        ):
            backbone(name)
