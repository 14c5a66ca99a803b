"""EfficientNet-Lite0: where the published tensors go, and, where they are, that they see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from image_cases import backbone
from torch import Tensor

from lora_cl.data import data_root, make_source, pixels
from lora_cl.data.weights import read_verified_pickle
from lora_cl.models.images import Images
from lora_cl.models.lite0 import FILE, WANTED, WEIGHTS, renamed

timm = pytest.importorskip("timm")


def test_names_by_structure():
    places = [
        "conv_stem.weight", "bn1.bias", "blocks.0.0.conv_dw.weight", "blocks.0.0.bn1.weight",
        "blocks.0.0.conv_pw.weight", "blocks.1.0.conv_pw.weight", "blocks.1.1.bn3.running_var",
        "conv_head.weight", "bn2.weight",
    ]  # fmt: skip
    theirs = [
        "_conv_stem.weight", "_bn0.bias", "_blocks.0._depthwise_conv.weight",
        "_blocks.0._bn1.weight", "_blocks.0._project_conv.weight", "_blocks.1._expand_conv.weight",
        "_blocks.2._bn2.running_var", "_conv_head.weight", "_bn1.weight",
        "_blocks.2._expand_conv.weight", "_fc.weight", "_blocks.7._bn2.weight", "_other.weight",
    ]  # fmt: skip
    tensors = {name: torch.tensor(float(number)) for number, name in enumerate(theirs)}
    found = renamed(tensors, places)
    assert list(found)[: len(places)] == places
    # What has no place keeps its name, to be refused by it; the classifier is left out.
    assert list(found)[len(places) :] == [
        "blocks.1.1.conv_pw.weight", "_blocks.7._bn2.weight", "_other.weight",
    ]  # fmt: skip
    assert found["blocks.1.1.bn3.running_var"] == 6.0


needs_weights = pytest.mark.skipif(
    WEIGHTS.where(data_root()) is None, reason="the weights of efficientnet-lite0 are not here"
)


@pytest.mark.slow
@needs_weights
def test_every_published_tensor_has_one_place_and_the_network_sees():
    from sklearn.datasets import load_sample_image

    tensors = read_verified_pickle(WEIGHTS.fetch(data_root()) / FILE.name)
    network = timm.create_model("tf_efficientnet_lite0").eval()
    found = renamed(tensors, network.state_dict())
    assert len(found) == len(tensors) - 2
    head = {f"classifier.{name}": tensors[f"_fc.{name}"] for name in ("weight", "bias")}
    network.load_state_dict({**found, **head})
    # Classes of ImageNet: 698 is a palace, 985 a daisy.
    for name, right in (("china.jpg", 698), ("flower.jpg", 985)):
        image = torch.from_numpy(np.array(load_sample_image(name))).permute(2, 0, 1)[None] / 255
        square = image[:, :, :, 106:533]
        with torch.inference_mode():
            logits = network(Images(224, 224, WANTED.mean, WANTED.std)(square))
        assert int(logits.argmax()) == right


def nearest_mean_accuracy(net: torch.nn.Module, x: Tensor, y: Tensor) -> float:
    """On the second half, by the class means of the first."""
    with torch.inference_mode():
        features = torch.cat([net(part) for part in x.split(100)])
    features = torch.nn.functional.normalize(features, dim=1)
    half = len(x) // 2
    means = torch.stack([features[:half][y[:half] == c].mean(0) for c in range(10)])
    nearest = torch.cdist(features[half:], means).argmin(1)
    return float((nearest == y[half:]).float().mean())


@pytest.mark.slow
@needs_weights
def test_features_tell_clothes_apart_better_than_random_ones():
    source = make_source("fashion-mnist")
    if source.where(data_root()) is None:
        pytest.skip("fashion-mnist is not here")
    data = source.load(data_root())
    x, y = pixels(data.x_train[:1000]), data.y_train[:1000]
    trained = backbone("efficientnet-lite0", (1, 28, 28), size=64)
    random = backbone("timm", (1, 28, 28), model="tf_efficientnet_lite0", size=64)
    accuracy = nearest_mean_accuracy(trained, x, y)
    assert accuracy > 0.7
    assert accuracy > nearest_mean_accuracy(random, x, y) + 0.05
