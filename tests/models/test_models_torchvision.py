from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from image_cases import backbone
from safetensors.torch import save_file
from torch import nn

from lora_cl.data.weights import Published, sha256
from lora_cl.errors import ConfigError, DataError
from lora_cl.models.torchvision import Torchvision, TorchvisionOptions

FEATURES = {
    "resnet18": 512, "squeezenet1_1": 512, "mobilenet_v3_small": 1024, "shufflenet_v2_x0_5": 1024,
    "mnasnet0_5": 1280, "regnet_x_400mf": 400,
}  # fmt: skip


@pytest.mark.parametrize("model", FEATURES)
def test_the_classifier_is_gone(model):
    net = backbone("torchvision", model=model, size=32)
    x = torch.rand(3, 1, 16, 16)
    assert net(x).shape == (3, FEATURES[model])
    assert not any(1000 in p.shape for p in net.parameters())
    assert torch.equal(net(x), backbone("torchvision", model=model, size=32)(x))


def test_features_are_those_of_torchvision():
    from torchvision.models import resnet18

    net, theirs = backbone("torchvision"), resnet18().eval()
    theirs.fc = nn.Identity()
    theirs.load_state_dict(copy.deepcopy(net.network).state_dict())
    x = torch.rand(2, 1, 16, 16)
    assert torch.equal(net(x), theirs(x.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize(
    ("shape", "options", "key", "message"),
    [
        ((1, 16, 16), {"model": "resnet81"}, "model.model", r"did you mean 'resnet18'\?"),
        ((1, 16, 16), {"model": "googlenet"}, "model.model", "no classifier called 'googlenet'"),
        ((5,), {}, "model", "needs images"),
        ((2, 16, 16), {}, "model", "1 or 3 channels"),
        ((1, 8, 8), {"model": "vgg11"}, "model.size", "vgg11 cannot take images of 8 x 8: .*small"),
        ((1, 8, 8), {"model": "vit_b_16"}, "model.size", "vit_b_16 cannot take images of 8 x 8"),
        ((1, 8, 8), {"weights": "a.pth"}, "model.weights", "a pickle, which can run code"),
        ((1, 8, 8), {"weights": "default"}, "model.weights", "neither null, nor DEFAULT, nor"),
    ],
)
def test_what_is_refused(shape, options, key, message):
    with pytest.raises(ConfigError, match=message) as caught:
        backbone("torchvision", shape, **options)
    assert caught.value.key == key
    assert "\n" not in str(caught.value)


def test_a_file_of_your_own(tmp_path: Path):
    from torchvision.models import squeezenet1_1

    torch.manual_seed(5)
    theirs = squeezenet1_1().eval()
    file = tmp_path / "mine.safetensors"
    save_file(theirs.state_dict(), file)
    net = backbone("torchvision", (3, 32, 32), model="squeezenet1_1", weights=str(file), size=32)
    # Normalised as its published weights want it.
    x = torch.rand(2, 3, 32, 32)
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    right = nn.functional.adaptive_avg_pool2d(theirs.features((x - mean) / std).relu(), 1)
    torch.testing.assert_close(net(x), right.flatten(1))
    with pytest.raises(ConfigError, match=r"do not fit: bn1\.bias is missing; .* and \d+ more"):
        backbone("torchvision", model="resnet18", weights=str(file))
    with pytest.raises(DataError, match="no such file"):
        backbone("torchvision", weights=str(tmp_path / "none.safetensors"))


def test_published_weights_are_verified_by_the_name_of_their_file(tmp_path: Path, monkeypatch):
    from torchvision.models import squeezenet1_1

    torch.manual_seed(5)
    theirs = squeezenet1_1().eval()
    torch.save(theirs.state_dict(), tmp_path / "made.pth")
    begins = sha256(tmp_path / "made.pth")[:8]
    default = type("Default", (), {"url": f"https://x.invalid/squeeze-{begins}.pth"})
    monkeypatch.setattr("lora_cl.models.torchvision._default", lambda _: default)
    weights = Torchvision.pretrained(TorchvisionOptions(model="squeezenet1_1", weights="DEFAULT"))
    assert isinstance(weights, Published)
    folder = tmp_path / "models" / f"torchvision-squeeze-{begins}"
    assert weights.where(tmp_path) is None
    with pytest.raises(DataError, match=r"x\.invalid: "):
        weights.fetch(tmp_path)
    kept = folder / f"squeeze-{begins}.pth"
    kept.write_bytes((tmp_path / "made.pth").read_bytes())
    assert weights.fetch(tmp_path) == folder
    before = weights.checksum(tmp_path)
    assert before.startswith("sha256:")
    kept.write_bytes(kept.read_bytes() + b"x")
    with pytest.raises(DataError, match="expected " + begins):
        weights.fetch(tmp_path)


def test_default_weights_are_torchvisions():
    weights = Torchvision.pretrained(TorchvisionOptions(weights="DEFAULT"))
    assert isinstance(weights, Published)
    assert [(file.name, file.sum) for file in weights.files] == [
        ("resnet18-f37072fd.pth", "f37072fd")
    ]
