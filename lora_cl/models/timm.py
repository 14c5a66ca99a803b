"""Networks of timm (Wightman 2019), with random weights, its published ones, or your own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import nn

from lora_cl.data.weights import HubFolder, Weights, read_safetensors
from lora_cl.errors import ConfigError
from lora_cl.models.backbone import Origin
from lora_cl.models.images import ImageNetwork, ImageOptions, Wanted, fill, images_for
from lora_cl.models.own_weights import own_file
from lora_cl.models.same import SameConv2d
from lora_cl.options import OptionsBase
from lora_cl.text import did_you_mean, one_line

MISSING = "model {} needs timm: pip install 'lora-cl[images]'"


class TimmOptions(ImageOptions):
    """`model`: one of timm's, with or without the tag of its weights, such as resnet18.a1_in1k.
    `weights`: null, random ones; `pretrained`, those on the Hugging Face hub; or a safetensors
    file with timm's names."""

    model: str = "resnet18"
    """One of timm's, with or without the tag of its weights, such as resnet18.a1_in1k."""
    weights: str | None = Field(default=None, json_schema_extra={"hashed": False})
    """null, random ones; `pretrained`, those on the Hugging Face hub; or a safetensors file."""


class Timm(ImageNetwork):
    """A network of timm without its classifier, pooled.

    A file of your own is taken to want images as the published weights do.
    """

    Options: ClassVar[type[OptionsBase]] = TimmOptions
    summary: ClassVar[str] = "a network of timm, random, pretrained or from a file (extra: images)"

    def __init__(
        self, options: TimmOptions, input_shape: torch.Size, folder: Path | None = None
    ) -> None:
        name = options.model
        published = config_of(name)
        wanted = Wanted(published.input_size[-1], published.mean, published.std)
        images = images_for(name, input_shape, options.size, wanted if folder else None)
        if folder is None:
            network = made(name, images.size if published.fixed_input_size else None)
        else:
            network = made(name)
            own = options.weights != "pretrained"
            file = Path(str(options.weights)).name if own else "model.safetensors"
            classifiers = published.classifier or ()
            dropped = [classifiers] if isinstance(classifiers, str) else list(classifiers)
            fill(network, read_safetensors(folder / file), dropped)
            if published.fixed_input_size and images.size != tuple(published.input_size[1:]):
                _resize(network, name, images.size)
        super().__init__(name, images, network)
        self.origin = origin_of(name, published, options.weights, images.size)

    @classmethod
    def pretrained(cls, options: TimmOptions) -> Weights | None:
        if options.weights != "pretrained":
            return own_file(options.weights, "pretrained")
        published = config_of(options.model)
        if not published.hf_hub_id:
            message = f"timm knows no weights of {options.model} on the Hugging Face hub"
            raise ConfigError(message, "model.weights")
        return HubFolder(published.hf_hub_id)


def origin_of(name: str, published: Any, weights: str | None, size: tuple[int, int]) -> Origin:
    """How timm knows its network ``name`` for images of ``size``; ``weights`` are those in it, None
    random ones."""
    sized = f", img_size={size}" if published.fixed_input_size else ""
    known = published.hf_hub_id if weights == "pretrained" else name
    own = weights if weights not in (None, "pretrained") else ""
    classifier = published.classifier
    return Origin(
        library="timm",
        name=f"{known} {own}".strip(),
        call=f"timm.create_model({name!r}, num_classes={{classes}}{sized})",
        prefix="network.",
        classifier=classifier if isinstance(classifier, str) else None,
        license=getattr(published, "license", None) if weights == "pretrained" else None,
    )


def library(model: str = "timm") -> Any:
    """timm; ConfigError where it is not installed."""
    try:
        import timm  # ten seconds on a slow machine
    except ImportError:
        raise ConfigError(MISSING.format(model), "model.name") from None
    return timm


def config_of(name: str) -> Any:
    """What timm knows of a model and its weights; ConfigError for a name that it does not know."""
    timm = library()
    known = timm.list_models()
    architecture, _, tag = name.partition(".")
    if architecture not in known:
        message = f"timm has no model called {name[:60]!r}{did_you_mean(architecture, known)}"
        raise ConfigError(message, "model.model")
    tags = timm.models.get_arch_pretrained_cfgs(architecture)
    if tag and name not in tags:
        message = f"timm has no weights called {name[:60]!r}{did_you_mean(name, tags)}"
        raise ConfigError(message, "model.model")
    return timm.get_pretrained_cfg(name)


def made(name: str, size: tuple[int, int] | None = None) -> nn.Module:
    """A network of timm with random weights and without classifier, its convolutions such that
    adapters fit them. ConfigError if images of this size do not fit."""
    sized = {} if size is None else {"img_size": size}
    try:
        network: nn.Module = library().create_model(name, pretrained=False, num_classes=0, **sized)
    except (ValueError, AssertionError, RuntimeError, TypeError) as error:
        at = f" for images of {size[0]} x {size[1]}" if size else ""
        raise ConfigError(f"{name} cannot be made{at}: {one_line(error)}", "model.size") from None
    for module in network.modules():
        if type(module) is library().layers.Conv2dSame:
            module.__class__ = SameConv2d
    return network


def _resize(network: nn.Module, name: str, size: tuple[int, int]) -> None:
    set_input_size: Any = getattr(network, "set_input_size", None)
    if set_input_size is None:
        raise ConfigError(f"the weights of {name} take no other size", "model.size")
    try:
        set_input_size(size)
    except (ValueError, AssertionError, RuntimeError) as error:
        message = f"{name} cannot take images of {size[0]} x {size[1]}: {one_line(error)}"
        raise ConfigError(message, "model.size") from None
