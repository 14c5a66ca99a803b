"""A task's adapter, taken away: in PEFT's format on the network that others know, or merged."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from lora_cl.adapters import adapted_layers, merged
from lora_cl.errors import MethodError, ResultsError
from lora_cl.methods.adapted import AdapterPerTask
from lora_cl.models import Origin, SameConv2d, TaskNetwork
from lora_cl.records.files import sorted_json, write_atomic
from lora_cl.records.layout import ADAPTER, ADAPTER_CONFIG, MODEL, make_empty
from lora_cl.running.card import Card, model_card

PEFT = "base_model.model."
HEAD, CARD = "head.safetensors", "README.md"
FORMATS = ("peft", "safetensors")

Tensors = dict[str, Tensor]


class PlainNetwork(nn.Module):
    """What PEFT loads an adapter into where no library knows the backbone: ``backbone``, then
    ``head``, a linear layer to the task's classes."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """(N, *input) -> logits (N, classes)."""
        logits: Tensor = self.head(self.backbone(x))
        return logits


@dataclass(frozen=True)
class Names:
    """Where the layers of a run's network stand in the one that an export is for.

    ``prefix`` is left out before the names of the backbone's layers; ``head`` is the name of the
    layer that gives the logits, None where it stands outside, in a file of its own.
    """

    origin: Origin | None

    @property
    def prefix(self) -> str:
        return f"backbone.{self.origin.prefix}" if self.origin else ""

    @property
    def head(self) -> str | None:
        return self.origin.classifier if self.origin else "head"

    def of(self, name: str) -> str:
        """What ``backbone.x`` or ``head.x`` is called there."""
        if name.startswith("head."):
            return f"{self.head}.{name.removeprefix('head.')}" if self.head else name
        return name.removeprefix(self.prefix)

    def back(self, name: str) -> str:
        """The inverse of ``of``."""
        if self.head and name.startswith(f"{self.head}."):
            return f"head.{name.removeprefix(f'{self.head}.')}"
        return f"{self.prefix}{name}"


def names_of(method: AdapterPerTask) -> Names:
    return Names(getattr(method.network.backbone, "origin", None))


def plain_base(method: AdapterPerTask, task: int) -> nn.Module:
    """The base as PEFT wants it for an adapter of ``task``: without any adapter; a head of zeros,
    which the adapter's own takes the place of.

    The library's own module where one made the backbone, else a ``PlainNetwork``.
    """
    with method.view(task) as network:
        weight = cast(Tensor, network.heads[0].weight)
    outputs, features = weight.shape
    plain = merged(method.network.backbone)  # Nothing is active.
    head = nn.Linear(features, outputs, device=weight.device)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    origin = names_of(method).origin
    if origin is None:
        return PlainNetwork(plain, head).eval()
    theirs = plain.get_submodule(origin.prefix.removesuffix("."))
    if origin.classifier:
        theirs.set_submodule(origin.classifier, head)
    return theirs.eval()


def export(
    method: AdapterPerTask, task: int, folder: Path, card: Card, form: str, merge: bool
) -> None:
    """Writes the adapter of ``task`` into ``folder``, which is made, with a model card.

    ``peft``: what ``PeftModel.from_pretrained`` reads. ``safetensors``: the tensors by our own
    names. With ``merge``: the network with the adapter in its weights. ResultsError if anything
    lies in the folder already; MethodError for what PEFT cannot hold.
    """
    names = names_of(method)
    if merge:
        files = _merged(method, task, names)
    elif form == "peft":
        files = _peft(method, task, names)
    else:
        sealed = save_safetensors(_plain(method.bank[task]), _metadata(method, task))
        files = {ADAPTER: sealed}
    files[CARD] = model_card(card, names.origin, form, merge, HEAD in files).encode()
    write_folder(folder, files)


def card_of(result: Mapping[str, Any], folder: Path, task: int) -> Card:
    """What a record says of a task and its run."""
    ((_, options),) = result["config"]["methods"].items()
    model = result["config"]["model"]
    last = result["accuracy_matrix"][-1]
    return Card(
        run_hash=str(result["hash"]),
        version=str(result["provenance"]["versions"].get("lora-cl")),
        folder=folder.name,
        experiment=str(result["experiment"]),
        method=str(result["method"]),
        options=options,
        task=task,
        name=str(result["tasks"][task]["name"]),
        classes=[str(name) for name in result["tasks"][task]["classes"]],
        accuracy=last[task] if task < len(last) else None,
        inputs=result["input"],
        model=f"{model['name']} of lora-cl: {json.dumps(model, sort_keys=True)}",
    )


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Puts ``files`` into a folder that is new or empty; ResultsError otherwise."""
    make_empty(folder)
    try:
        for name, content in files.items():
            write_atomic(folder / name, content)
    except OSError as error:
        with suppress(OSError):
            folder.rmdir()
        raise ResultsError(f"{folder}: cannot be written: {error.strerror}") from None


def _peft(method: AdapterPerTask, task: int, names: Names) -> dict[str, bytes]:
    encoded = method.to_peft(method.bank[task])
    if encoded is None:
        raise MethodError(f"task {task}: PEFT has no form of this adapter; export it with --merge")
    config, tensors = encoded
    _require_runnable(method)
    inside = {name.removeprefix(PEFT): tensor for name, tensor in tensors.items()}
    head = {name: tensor for name, tensor in inside.items() if name.startswith("head.")}
    if names.head is None:
        inside = {name: tensor for name, tensor in inside.items() if name not in head}
    renamed = {f"{PEFT}{names.of(name)}": tensor for name, tensor in inside.items()}
    config = _config(config, method, names)
    files = {
        ADAPTER_CONFIG: sorted_json(config),
        ADAPTER: save_safetensors(_plain(renamed), {"format": "pt"}),
    }
    if names.head is None:
        files[HEAD] = head_file(head)
    return files


def _config(config: dict[str, Any], method: AdapterPerTask, names: Names) -> dict[str, Any]:
    """PEFT's config with the names of the base's layers in it, and the base's own."""
    there = [names.of(f"backbone.{name}") for name, _ in method.network.backbone.named_modules()]
    layers = sorted((names.of(name) for name in config["target_modules"]), key=there.index)
    origin = names.origin
    transposed = origin is not None and origin.transposed.issuperset(layers)
    changed: dict[str, Any] = {
        "base_model_name_or_path": origin.name if origin else None,
        "target_modules": selecting(layers, there),
        "fan_in_fan_out": transposed,
        "modules_to_save": [names.head] if names.head else None,
    }
    if config.get("rank_pattern"):
        pattern = {names.of(name): kept for name, kept in config["rank_pattern"].items()}
        changed["rank_pattern"] = pattern
    return {**config, **changed}


def selecting(layers: list[str], there: Iterable[str]) -> list[str] | str:
    """What makes PEFT take ``layers`` of those ``there`` and no others: their names, or a pattern
    where PEFT, which compares how names end, would take more."""
    chosen = set(layers)
    endings = tuple(f".{layer}" for layer in layers)
    if not any(name not in chosen and name.endswith(endings) for name in there):
        return layers
    return "|".join(re.escape(layer) for layer in layers)


def _require_runnable(method: AdapterPerTask) -> None:
    """PEFT runs the A of a convolution with fixed padding and without dilation."""
    for name, layer in adapted_layers(method.network.backbone).items():
        base = layer.base
        if not isinstance(base, nn.Conv2d) or set(base.kernel_size) == {1}:
            continue
        if isinstance(base, SameConv2d) or set(base.dilation) != {1}:
            raise MethodError(
                f"layer {name} has padding or dilation that PEFT cannot run an adapter with; "
                "export it with --merge"
            )


def _merged(method: AdapterPerTask, task: int, names: Names) -> dict[str, bytes]:
    """The network with the adapter in its weights, as files by name."""
    with method.view(task) as network:
        whole = merged(network)
    assert isinstance(whole, TaskNetwork)
    head = {f"head.{k}": v for k, v in whole.heads[0].state_dict().items()}
    state = {f"backbone.{k}": v for k, v in whole.backbone.state_dict().items()} | head
    origin = names.origin
    files: dict[str, bytes] = {}
    if names.head is None:
        files[HEAD] = head_file(head)
        state = {k: v for k, v in state.items() if k not in head}
    files[MODEL] = network_file(state, names)
    if origin and origin.library == "transformers":
        model: Any = whole.backbone.get_submodule(origin.prefix.removesuffix("."))
        settings = copy.deepcopy(model.config)
        settings.architectures = None
        files["config.json"] = settings.to_json_string().encode()
    return files


def network_file(state: Mapping[str, Tensor], names: Names) -> bytes:
    """``backbone.x`` and ``head.x`` as safetensors, as the library that made the network has them;
    what it has no place for is left out."""
    renamed = {names.of(k): v for k, v in state.items() if k.startswith((names.prefix, "head."))}
    for layer in names.origin.transposed if names.origin else ():
        renamed[f"{layer}.weight"] = renamed[f"{layer}.weight"].T
    return save_safetensors(_plain(renamed), {"format": "pt"})


def head_file(sealed: Mapping[str, Tensor]) -> bytes:
    """The ``head.x`` of ``sealed`` as safetensors of a file of their own."""
    bare = {k.removeprefix("head."): v for k, v in sealed.items() if k.startswith("head.")}
    return save_safetensors(_plain(bare), {"format": "pt"})


def _metadata(method: AdapterPerTask, task: int) -> dict[str, str]:
    about = {**method.peft_options(), "task": task, "format": "pt"}
    return {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()
    }


def _plain(tensors: Mapping[str, Tensor]) -> Tensors:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
