"""The diagonal of the Fisher information of a classifier, without a loop over samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from lora_cl.adapters.lora import LoRA
from lora_cl.data.streaming import Inputs, parts

FisherKind = Literal["exact", "sampled", "empirical"]

SAMPLE_GRADIENTS = 2**25
"""At most so many numbers of per-sample gradients are held at once."""


def fisher_diagonal(
    network: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    x: Inputs,
    y: Tensor,
    kind: FisherKind,
    generator: torch.Generator | None = None,
    batch_size: int = 512,
) -> dict[str, Tensor]:
    """F_i = mean over n of E_c[(d log p(c | x_n) / d theta_i)^2], as EWC uses it (Kirkpatrick et
    al. 2017, section 2.1; for the choice of labels, van de Ven 2025, arXiv 2502.11756).

    The gradient of every single sample is squared, then the average is taken. The label c is
    ``exact``: in expectation over the network's own p(c | x_n), a backward pass per output;
    ``sampled``: drawn from it once, with ``generator``; ``empirical``: the true one.

    ``network``: x (N, *input) -> logits (N, C), put in eval mode; y (N,) are outputs, used by
    ``empirical`` only. Returns F in the shape of each of ``parameters``, which require grad; it is
    0 where the logits do not depend on the parameter.

    Linear layers and LoRA on them cost one matrix product a batch, whatever the number of
    outputs; any other layer takes per-sample gradients by ``torch.func``, texts one after another.
    """
    network.eval()
    names = {id(parameter): name for name, parameter in parameters.items()}
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    layers = _outer_product_layers(network, names.keys(), x[:2])
    covered = {id(p) for layer in layers for p in layer.parameters(recurse=False)}
    covered |= {id(p) for layer in layers if isinstance(layer, LoRA) for p in layer.parameters()}
    rest = {
        inside: parameter
        for inside, parameter in network.named_parameters()
        if id(parameter) in names and id(parameter) not in covered
    }
    for part, labels in zip(parts(x, batch_size), torch.split(y, batch_size), strict=True):
        with _recorded(layers) as passes:
            log_p = functional.log_softmax(network(part), dim=1)
        draws = label_draws(kind, log_p.detach(), labels, generator)
        for parameter, square in _outer_product_squares(passes, log_p, draws):
            if id(parameter) in names:
                total[names[id(parameter)]] += square
        for inside, square in _sample_gradient_squares(network, rest, part, draws).items():
            total[names[id(rest[inside])]] += square
    return {name: square / len(x) for name, square in total.items()}


def label_draws(
    kind: FisherKind, log_p: Tensor, y: Tensor, generator: torch.Generator | None
) -> list[tuple[Tensor, Tensor]]:
    """The labels that stand for E_c: pairs of labels (N,) and roots of their weights (N,).

    The weights of a sample add to 1. ``log_p`` (N, C) are log-probabilities, y (N,) true labels.
    """
    if kind == "exact":
        roots = (log_p / 2).exp()
        return [(torch.full_like(y, c), roots[:, c]) for c in range(log_p.shape[1])]
    if kind == "sampled":
        # Drawn where the generator lives, so that every device draws the same numbers.
        uniform = torch.rand(len(y), 1, generator=generator).to(log_p)
        y = (log_p.exp().cumsum(1) < uniform).sum(1).clamp_(max=log_p.shape[1] - 1)
    return [(y, torch.ones_like(log_p[:, 0]))]


Left = Callable[[Tensor], Tensor]


@dataclass
class _Pass:
    """A layer's forward pass over a batch; ``uses`` counts how often the layer was called."""

    layer: nn.Module
    uses: int = 0
    x: Tensor = field(default_factory=lambda: torch.empty(0))
    out: Tensor = field(default_factory=lambda: torch.empty(0))


@contextmanager
def _recorded(layers: list[nn.Module]) -> Iterator[list[_Pass]]:
    """Notes input and output of ``layers`` as the network runs."""
    passes = [_Pass(layer) for layer in layers]

    def recorder(record: _Pass) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
        def hook(layer: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
            record.x, record.out, record.uses = args[0].detach(), out, record.uses + 1
            return out.clone()  # An activation that works in place would overwrite what was noted.

        return hook

    hooks = [record.layer.register_forward_hook(recorder(record)) for record in passes]
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()


def _outer_product_layers(network: nn.Module, wanted: Any, x: Tensor) -> list[nn.Module]:
    """Linear layers and LoRA adapters with a wanted parameter that see each sample just once.

    There a sample's gradient is an outer product. A layer run several times, over a sequence, or
    around its forward (its bare weights), and one whose weights another layer has too, are not.
    """
    candidates = [
        module
        for module in network.modules()
        if type(module) in (nn.Linear, LoRA) and any(id(p) in wanted for p in module.parameters())
    ]
    owners: dict[int, int] = {}
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    with torch.no_grad(), _recorded(candidates) as passes:
        network(x)
    return [
        one.layer
        for one in passes
        if one.uses == 1
        and one.x.dim() == 2
        and len(one.x) == len(x)
        and all(owners[id(parameter)] == 1 for parameter in one.layer.parameters())
    ]


def _outer_products(one: _Pass) -> list[tuple[Left, list[tuple[Tensor, Tensor]]]]:
    """What turns delta = d log p / d out (N, d_out) into left (N, o), and the parameters (o, i)
    with their right (N, i), such that the gradient of sample n is left_n right_n^T.

    Linear, out = W x + b: W: (delta, x); b: (delta, 1).
    LoRA, out = ... + s B A x: B: (s delta, A x); A: (s delta B, x).
    """
    layer, x = one.layer, one.x
    if isinstance(layer, LoRA):
        A, B, s = layer.lora_A.weight, layer.lora_B.weight, layer.scale
        hidden = x @ A.detach().T
        return [(lambda d: s * d, [(B, hidden)]), (lambda d: s * (d @ B.detach()), [(A, x)])]
    assert isinstance(layer, nn.Linear)
    of_bias = [] if layer.bias is None else [(layer.bias, x.new_ones(len(x), 1))]
    return [(lambda d: d, [(layer.weight, x), *of_bias])]


def _outer_product_squares(
    passes: list[_Pass], log_p: Tensor, draws: list[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Per parameter, the sum over samples and labels of the squared gradient, in its shape.

    (left right^T)^2 summed over samples is (left^2)^T (right^2); right is the same for all labels,
    so that the squares of left are added first.
    """
    if not passes:
        return
    outs = [one.out for one in passes]
    owners, products = [], []
    for index, one in enumerate(passes):
        for product in _outer_products(one):
            owners.append(index)
            products.append(product)
    squares: list[Tensor] = []
    for number, (labels, roots) in enumerate(draws, start=1):
        score = (roots * log_p.gather(1, labels[:, None])[:, 0]).sum()
        deltas = torch.autograd.grad(score, outs, retain_graph=number < len(draws))
        for index, (owner, (left, _)) in enumerate(zip(owners, products, strict=True)):
            delta = left(deltas[owner])
            if number == 1:
                squares.append(delta.square())
            else:
                squares[index].addcmul_(delta, delta)
    for square, (_, of_left) in zip(squares, products, strict=True):
        for parameter, right in of_left:
            yield parameter, (square.T @ right.square()).reshape(parameter.shape)


def _sample_gradient_squares(
    network: nn.Module,
    parameters: dict[str, nn.Parameter],
    x: Tensor,
    draws: list[tuple[Tensor, Tensor]],
) -> dict[str, Tensor]:
    """The same for any layer; ``parameters`` go by their names in ``network``."""
    if not parameters:
        return {}
    values = {name: parameter.detach() for name, parameter in parameters.items()}

    def score(values: dict[str, Tensor], one: Tensor, label: Tensor, root: Tensor) -> Tensor:
        log_p = functional.log_softmax(functional_call(network, values, (one[None],))[0], dim=0)
        return root * log_p.gather(0, label[None])[0]

    gradients: Callable[..., dict[str, Tensor]] = vmap(grad(score), in_dims=(None, 0, 0, 0))
    rows = max(1, SAMPLE_GRADIENTS // sum(value.numel() for value in values.values()))
    if not x.is_floating_point():  # vmap cannot follow a length that depends on the text.
        gradients, rows = _one_by_one(grad(score)), 1
    total = {name: torch.zeros_like(value) for name, value in values.items()}
    with sdpa_kernel(SDPBackend.MATH):  # The one kind of attention that vmap knows.
        for labels, roots in draws:
            parts = (torch.split(whole, rows) for whole in (x, labels, roots))
            for part in zip(*parts, strict=True):
                for name, gradient in gradients(values, *part).items():
                    total[name] += gradient.square().sum(0)
    return total


def _one_by_one(gradient: Callable[..., dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
    """What ``vmap`` makes of ``gradient``, for a batch of one."""

    def of_one(values: dict[str, Tensor], *part: Tensor) -> dict[str, Tensor]:
        found = gradient(values, *(whole[0] for whole in part))
        return {name: value[None] for name, value in found.items()}

    return of_one
