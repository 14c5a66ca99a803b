"""The diagonal of the Fisher information of a classifier, without a loop over samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from lora_cl.adapters.lora import LoRA
from lora_cl.data.streaming import Inputs, parts
from lora_cl.models.rows import current_rows

FisherKind = Literal["exact", "sampled", "empirical"]

SAMPLE_GRADIENTS = 2**25
"""At most so many numbers of per-sample gradients are held at once."""
BATCH_NUMBERS = 2**21
"""At most so many numbers of inputs go through the network at once, a token for a thousand."""


def fisher_diagonal(
    network: nn.Module,
    parameters: Mapping[str, nn.Parameter],
    x: Inputs,
    y: Tensor,
    kind: FisherKind,
    generator: torch.Generator | None = None,
    batch_size: int | None = None,
) -> dict[str, Tensor]:
    """F_i = mean over n of E_c[(d log p(c | x_n) / d theta_i)^2], as EWC uses it (Kirkpatrick et
    al. 2017, section 2.1; for the choice of labels, van de Ven 2025, arXiv 2502.11756).

    The gradient of every single sample is squared, then the average is taken. The label c is
    ``exact``: in expectation over the network's own p(c | x_n), a backward pass per output;
    ``sampled``: drawn from it once, with ``generator``; ``empirical``: the true one.

    ``network``: x (N, *input) -> logits (N, C), put in eval mode; y (N,) are outputs, used by
    ``empirical`` only; ``batch_size`` samples go through it at once, by default at most 512 and
    fewer where they are large. Returns F in the shape of each of ``parameters``, which require
    grad; it is 0 where the logits do not depend on the parameter.

    Linear layers and LoRA on them cost one matrix product a batch, whatever the number of
    outputs; where they see a sequence of each sample, one for each output. Any other layer takes
    per-sample gradients by ``torch.func``, texts one after another.
    """
    network.eval()
    names = {id(parameter): name for name, parameter in parameters.items()}
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    few = x[:2]
    layers = _outer_product_layers(network, names.keys(), few)
    covered = {id(p) for layer in layers for p in layer.parameters(recurse=False)}
    covered |= {id(p) for layer in layers if isinstance(layer, LoRA) for p in layer.parameters()}
    rest = {
        inside: parameter
        for inside, parameter in network.named_parameters()
        if id(parameter) in names and id(parameter) not in covered
    }
    rows = batch_size or _batch_size(few)
    for part, labels in zip(parts(x, rows), torch.split(y, rows), strict=True):
        with _recorded(layers) as passes:
            log_p = functional.log_softmax(network(part), dim=1)
        draws = label_draws(kind, log_p.detach(), labels, generator)
        for parameter, square in _outer_product_squares(passes, log_p, draws):
            if id(parameter) in names:
                total[names[id(parameter)]] += square
        for inside, square in _sample_gradient_squares(network, rest, part, draws).items():
            total[names[id(rest[inside])]] += square
    return {name: square / len(x) for name, square in total.items()}


def _batch_size(x: Tensor) -> int:
    numbers = x[:1].numel() * (1 if x.is_floating_point() else 1000)
    return min(512, max(1, BATCH_NUMBERS // numbers))


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
    """One call of a layer: input and output of the ``rows`` of the batch; None: of all."""

    layer: nn.Module
    x: Tensor
    out: Tensor
    rows: Tensor | None


@contextmanager
def _recorded(layers: list[nn.Module]) -> Iterator[list[_Pass]]:
    """Notes every call of ``layers`` as the network runs."""
    passes: list[_Pass] = []

    def hook(layer: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        passes.append(_Pass(layer, args[0].detach(), out, current_rows()))
        return out.clone()  # An activation that works in place would overwrite what was noted.

    hooks = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield passes
    finally:
        for one in hooks:
            one.remove()


def _outer_product_layers(network: nn.Module, wanted: Any, x: Tensor) -> list[nn.Module]:
    """Linear layers and LoRA adapters with a wanted parameter that see every sample just once,
    whole and in a row of its own.

    There a sample's gradient is an outer product, or a sum of some over a sequence. A layer run
    twice on a sample, over parts of samples as rows, or around its forward (its bare weights), and
    one whose weights another layer has too, are not of these.
    """
    layers = [
        module
        for module in network.modules()
        if (type(module).forward is nn.Linear.forward or _is_linear_lora(module))
        and any(id(p) in wanted for p in module.parameters())
    ]
    owners = Counter(
        id(parameter)
        for module in network.modules()
        for parameter in module.parameters(recurse=False)
    )
    for few in (x[:1], x):  # Of two sizes, so that no length of a sequence is taken for theirs.
        with torch.no_grad(), _recorded(layers) as passes:
            network(few)
        layers = [layer for layer in layers if _seen(layer, passes) == list(range(len(few)))]
    return [one for one in layers if all(owners[id(p)] == 1 for p in one.parameters())]


def _seen(layer: nn.Module, passes: list[_Pass]) -> list[int]:
    """The rows of the batch that ``layer`` was called with, in order."""
    rows: list[int] = []
    for one in passes:
        if one.layer is layer:
            whole = range(len(one.x)) if one.rows is None else one.rows.tolist()
            rows += whole if len(whole) == len(one.x) else [-1]
    return sorted(rows)


def _is_linear_lora(module: nn.Module) -> bool:
    return type(module) is LoRA and module.lora_A.weight.dim() == 2


def _outer_products(one: _Pass) -> list[tuple[Left, list[tuple[Tensor, Tensor]]]]:
    """What turns delta = d log p / d out (N, ..., d_out) into left (N, ..., o), and the parameters
    (o, i) with their right (N, ..., i), such that the gradient of sample n is left_n right_n^T,
    summed over what is between.

    Linear, out = W x + b: W: (delta, x); b: (delta, 1).
    LoRA, out = ... + s B A x: B: (s delta, A x); A: (s delta B, x).
    """
    layer, x = one.layer, one.x
    if isinstance(layer, LoRA):
        A, B, s = layer.lora_A.weight, layer.lora_B.weight, layer.scale
        hidden = x @ A.detach().T
        return [(lambda d: s * d, [(B, hidden)]), (lambda d: s * (d @ B.detach()), [(A, x)])]
    assert isinstance(layer, nn.Linear)
    of_bias = [] if layer.bias is None else [(layer.bias, x.new_ones(*x.shape[:-1], 1))]
    return [(lambda d: d, [(layer.weight, x), *of_bias])]


def _outer_product_squares(
    passes: list[_Pass], log_p: Tensor, draws: list[tuple[Tensor, Tensor]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Per parameter, the sum over samples and labels of the squared gradient, in its shape.

    (left right^T)^2 summed over samples is (left^2)^T (right^2); right is the same for all labels,
    so that the squares of left are added first. A sum over a sequence is squared for each label.
    """
    if not passes:
        return
    outs = [one.out for one in passes]
    products = [
        (owner, left, of_left)
        for owner, one in enumerate(passes)
        for left, of_left in _outer_products(one)
    ]
    squares: dict[int, Tensor] = {}
    for number, (labels, roots) in enumerate(draws, start=1):
        score = (roots * log_p.gather(1, labels[:, None])[:, 0]).sum()
        deltas = torch.autograd.grad(
            score, outs, retain_graph=number < len(draws), materialize_grads=True
        )
        for index, (owner, left, of_left) in enumerate(products):
            delta = left(deltas[owner])
            if delta.dim() > 2:
                for parameter, right in of_left:
                    yield parameter, _squared_sums(delta, right).reshape(parameter.shape)
            elif index in squares:
                squares[index].addcmul_(delta, delta)
            else:
                squares[index] = delta.square()
    for index, square in squares.items():
        for parameter, right in products[index][2]:
            yield parameter, (square.T @ right.square()).reshape(parameter.shape)


def _squared_sums(left: Tensor, right: Tensor) -> Tensor:
    """left (N, ..., o), right (N, ..., i) -> the sum over N of (sum left right^T)^2, (o, i)."""
    left, right = left.flatten(1, -2), right.flatten(1, -2)
    total = left.new_zeros(left.shape[2], right.shape[2])
    rows = max(1, SAMPLE_GRADIENTS // total.numel())
    for some, others in zip(torch.split(left, rows), torch.split(right, rows), strict=True):
        total += torch.bmm(some.mT, others).square_().sum(0)
    return total


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
    # Attention of the one kind that vmap knows; no graph of how the gradients came about, which
    # other parameters would ask for.
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
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
