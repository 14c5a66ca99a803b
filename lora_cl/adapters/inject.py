"""Put adapters into a backbone, switch between them, take them out, merge them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import cast

from torch import Tensor, nn

from lora_cl.adapters.adalora import SVDLoRA
from lora_cl.adapters.attention import UnpackedAttention, unpackable
from lora_cl.adapters.layer import AdaptedLayer, Adapter, adaptable
from lora_cl.adapters.nf4 import NF4Layer, nf4_layer, parameter_count
from lora_cl.errors import MethodError
from lora_cl.text import did_you_mean


def wrap(backbone: nn.Module, names: Iterable[str], quantize: bool = False) -> None:
    """Replace the layers called ``names``, in place, by an AdaptedLayer around each.

    An nn.MultiheadAttention becomes an UnpackedAttention, both of whose projections are wrapped.
    The weights are frozen; with ``quantize`` they are stored in NF4, and the dense weight goes.
    MethodError, before anything is replaced, for a name that is no layer to be adapted.
    """
    modules = dict(backbone.named_modules())
    targets: list[nn.Module] = []
    for name in names:
        layer = modules.get(name)
        if not name or layer is None or not (adaptable(layer) or unpackable(layer)):
            what = "not there" if layer is None else f"a {type(layer).__name__}"
            raise MethodError(
                f"layer {name!r} is {what}; what can be adapted is a Linear, Conv2d or "
                "MultiheadAttention inside the backbone that is not adapted yet"
            )
        targets.append(layer)

    def adapted(base: nn.Module, batch_dim: int = 0) -> AdaptedLayer:
        layer = AdaptedLayer(nf4_layer(base) if quantize else base, batch_dim)
        return layer.train(base.training)

    for target in targets:
        if isinstance(target, nn.MultiheadAttention):
            attention = UnpackedAttention(target)
            attention.in_proj = adapted(attention.in_proj, attention.batch_dim)
            attention.out_proj = adapted(attention.out_proj, attention.batch_dim)
            _replace(modules.values(), target, attention)
        else:
            _replace(modules.values(), target, adapted(target))
    _call_layers(modules.values())


def _replace(modules: Iterable[nn.Module], old: nn.Module, new: nn.Module) -> None:
    """Puts ``new`` wherever one of ``modules`` has ``old``: a layer may have two names."""
    for module in modules:
        for child, child_module in module._modules.items():
            if child_module is old:
                module._modules[child] = new


def _call_layers(modules: Iterable[nn.Module]) -> None:
    """Torch's encoders skip, in eval mode, the forward of the layers inside: no longer."""
    for module in modules:
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False


def adapted_layers(backbone: nn.Module) -> dict[str, AdaptedLayer]:
    """Name to layer, for every adapted layer, in the order of the backbone's modules."""
    return {n: m for n, m in backbone.named_modules() if isinstance(m, AdaptedLayer)}


def unpacked_attentions(backbone: nn.Module) -> list[str]:
    """The names of the attentions that ``wrap`` took apart."""
    return [n for n, m in backbone.named_modules() if isinstance(m, UnpackedAttention)]


def add_adapter(
    backbone: nn.Module, name: str, make: Callable[[str, nn.Module], nn.Module]
) -> None:
    """Give every adapted layer an adapter called ``name``, ``make(layer name, base layer)``.

    It is trainable and not yet active. MethodError if the name is taken or has a dot in it.
    """
    layers = _layers(backbone)
    if not name or "." in name or hasattr(nn.ModuleDict, name):
        raise MethodError(f"adapter name {name!r} is not allowed; use a word such as task-000")
    if any(name in layer.adapters for layer in layers.values()):
        raise MethodError(f"adapter {name!r} is there already; remove it first")
    made: dict[str, nn.Module] = {}
    for layer_name, layer in layers.items():
        try:
            made[layer_name] = make(layer_name, layer.base)
        except MethodError as error:
            raise MethodError(f"layer {layer_name}: {error}") from error
    for layer_name, layer in layers.items():
        layer.adapters[name] = made[layer_name].train(layer.training)


def remove_adapter(backbone: nn.Module, name: str) -> None:
    """Forget the adapter called ``name``; where it was active it no longer is."""
    for layer, _ in _bank(backbone, name).values():
        del layer.adapters[name]
        layer.active = tuple(active for active in layer.active if active != name)


def activate(backbone: nn.Module, *names: str) -> None:
    """Use the adapters called ``names``, in this order; with no name, the base alone."""
    for name in names:
        _bank(backbone, name)
    for layer in _layers(backbone).values():
        layer.active = names


def adapter_modules(backbone: nn.Module, name: str) -> dict[str, Adapter]:
    """Layer name to adapter, for the adapter called ``name``."""
    return {layer: adapter for layer, (_, adapter) in _bank(backbone, name).items()}


def set_trainable(backbone: nn.Module, name: str, trainable: bool) -> None:
    """Whether the adapter called ``name`` is to receive gradients."""
    for adapter in adapter_modules(backbone, name).values():
        adapter.requires_grad_(trainable)


def adapter_state(backbone: nn.Module, name: str) -> dict[str, Tensor]:
    """The adapter called ``name``: ``<layer>.<parameter>`` to a copy of the tensor."""
    return {
        f"{layer}.{key}": tensor.detach().clone()
        for layer, adapter in adapter_modules(backbone, name).items()
        for key, tensor in adapter.state_dict().items()
    }


def load_adapter_state(backbone: nn.Module, name: str, state: Mapping[str, Tensor]) -> None:
    """Put ``adapter_state()`` back into the adapter called ``name``.

    Every key must be there, none besides, each with its shape; only AdaLoRA's adapters take another
    number of triplets, as a compacted one has. MethodError otherwise, before anything is changed.
    """
    adapters = adapter_modules(backbone, name)
    resizable = {
        layer: state[f"{layer}.lora_E"].shape[0]
        for layer, adapter in adapters.items()
        if isinstance(adapter, SVDLoRA) and f"{layer}.lora_E" in state
    }
    expected = {
        f"{layer}.{key}": _shape(key, tensor, resizable.get(layer))
        for layer, adapter in adapters.items()
        for key, tensor in adapter.state_dict().items()
    }
    for key in expected.keys() ^ state.keys():
        where = "is missing from" if key in expected else "has no place in"
        raise MethodError(f"{key} {where} the adapter {name!r}")
    for key, shape in expected.items():
        if tuple(state[key].shape) != shape:
            raise MethodError(f"{key} has shape {tuple(state[key].shape)}; {shape} is needed")
    for layer, adapter in adapters.items():
        if layer in resizable and cast(SVDLoRA, adapter).triplets != resizable[layer]:
            cast(SVDLoRA, adapter).resize(resizable[layer])
        adapter.load_state_dict({key: state[f"{layer}.{key}"] for key in adapter.state_dict()})


def _shape(key: str, tensor: Tensor, triplets: int | None) -> tuple[int, ...]:
    if triplets is None:
        return tuple(tensor.shape)
    return (tensor.shape[0], triplets) if key == "lora_B" else (triplets, tensor.shape[1])


def assert_all_adapters_have_gradient(backbone: nn.Module, name: str) -> None:
    """MethodError unless every trainable parameter of the adapter ``name`` has a gradient.

    To be called after the first backward: a layer that the forward never calls is adapted in vain.
    """
    for layer, adapter in adapter_modules(backbone, name).items():
        trainable = [(k, p) for k, p in adapter.named_parameters() if p.requires_grad]
        without = [key for key, parameter in trainable if parameter.grad is None]
        if without or not trainable:
            raise MethodError(
                f"adapter {name!r} of layer {layer} gets no gradient "
                f"({', '.join(without) or 'nothing in it is trainable'}); the model's forward does "
                "not use this layer: leave it out of targets"
            )


def merged(backbone: nn.Module) -> nn.Module:
    """A copy in which each adapted layer is one plain layer, its active adapters merged into it.

    The original is left as it is; adapters that are not active are not copied.
    """
    plain: dict[int, object] = {id(m): m.merged() for m in adapted_layers(backbone).values()}
    # deepcopy takes what its memo holds for an object instead of copying the object.
    return copy.deepcopy(backbone, plain)


def merged_parameter_count(network: nn.Module) -> int:
    """How many parameters ``network`` has once its adapters are merged into their layers.

    A 4-bit weight cannot take them in and stay in 4 bits: there they count beside it.
    """
    dense = [m for m in adapted_layers(network).values() if not isinstance(m.base, NF4Layer)]
    merged = [adapter for layer in dense for adapter in layer.adapters.values()]
    return parameter_count(network) - sum(parameter_count(adapter) for adapter in merged)


def _layers(backbone: nn.Module) -> dict[str, AdaptedLayer]:
    layers = adapted_layers(backbone)
    if not layers:
        raise MethodError("no layer of the backbone is adapted; call wrap first")
    return layers


def _bank(backbone: nn.Module, name: str) -> dict[str, tuple[AdaptedLayer, Adapter]]:
    bank = {
        layer_name: (layer, cast(Adapter, layer.adapters[name]))
        for layer_name, layer in _layers(backbone).items()
        if name in layer.adapters
    }
    if not bank:
        known = sorted({key for layer in _layers(backbone).values() for key in layer.adapters})
        hint = did_you_mean(name, known, cutoff=0.6)
        raise MethodError(f"no adapter {name!r}; there are: {', '.join(known) or 'none'}{hint}")
    return bank
