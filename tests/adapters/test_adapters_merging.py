"""Merging: identities, and the numbers of real PEFT."""

from __future__ import annotations

import math
import warnings
from itertools import permutations
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from lora_cl.adapters import merge_deltas, require_merge
from lora_cl.adapters.merging import HOWS, Dense, How, default_weight, dropped, largest
from lora_cl.errors import MethodError

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", FutureWarning)
    peft = pytest.importorskip("peft")
    merge_utils = pytest.importorskip("peft.utils.merge_utils")

IN_PEFT: dict[How, str] = {
    "linear": "svd",
    "cat": "cat",
    "svd": "svd",
    "ties": "ties_svd",
    "dare_ties": "dare_ties_svd",
    "magnitude_prune": "magnitude_prune_svd",
}
"""PEFT's name of what works on dW; its ``linear`` and ``ties`` work on factors."""


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_ways_are_those_of_the_type() -> None:
    assert get_args(How) == HOWS
    assert set(IN_PEFT) == set(HOWS)


@pytest.mark.parametrize("shape", [(5, 7), (4, 3, 2, 2)])
@pytest.mark.parametrize("how", HOWS)
def test_one_at_weight_1_is_itself(how: How, shape: tuple[int, ...]) -> None:
    delta = random(*shape)
    rank = min(shape[0], delta[0].numel())
    merged = merge_deltas([delta], [1.0], how, 1.0, rank)
    torch.testing.assert_close(merged, delta, rtol=1e-5, atol=1e-6)
    assert default_weight(how, 1) == 1.0


@pytest.mark.parametrize("how", HOWS)
def test_the_order_of_tasks_does_not_matter(how: How) -> None:
    """Nor with their weights; ``dare_ties`` draws for one after another, and is asked to drop
    nothing."""
    deltas, weights = [random(6, 5, seed=k) for k in range(3)], [0.5, 1.0, 2.0]
    density = 1.0 if how == "dare_ties" else 0.4
    found = [
        merge_deltas([deltas[k] for k in order], [weights[k] for k in order], how, density, 2)
        for order in permutations(range(3))
    ]
    assert len(found) == 6
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])


def test_by_hand() -> None:
    one, other = torch.tensor([[3.0, -1.0, 2.0, 0.0]]), torch.tensor([[1.0, 2.0, -4.0, 0.0]])
    linear = merge_deltas([one, other], [1.0, 0.5], "linear")
    assert linear.tolist() == [[3.5, 0.0, 0.0, 0.0]]
    # Signs of the sums 4, 1, -2, 0: both; the second; the second; none.
    assert merge_deltas([one, other], [1.0, 1.0], "ties").tolist() == [[2.0, 2.0, -4.0, 0.0]]
    # Of the halves (3, 2) and (2, -4): sums 3, 2, -2.
    trimmed = merge_deltas([one, other], [1.0, 1.0], "ties", density=0.5)
    assert trimmed.tolist() == [[3.0, 2.0, -4.0, 0.0]]
    pruned = merge_deltas([one, other], [1.0, 1.0], "magnitude_prune", density=0.5)
    assert pruned.tolist() == [[3.0, 2.0, -2.0, 0.0]]


def test_svd_is_the_nearest_of_its_rank() -> None:
    deltas = [random(8, 2, seed=k) @ random(2, 6, seed=9 + k) for k in range(3)]
    total = sum(deltas)
    cut = merge_deltas(deltas, [1.0] * 3, "svd", rank=2)
    values = torch.linalg.svdvals(total)
    assert torch.linalg.matrix_rank(cut, rtol=1e-5) == 2
    error = torch.linalg.vector_norm(total - cut)
    torch.testing.assert_close(error, torch.linalg.vector_norm(values[2:]))


def test_what_is_dropped_and_kept() -> None:
    delta = random(40, 50)
    kept = largest(delta, 0.2)
    assert int(kept.count_nonzero()) == 400
    least = delta.abs()[kept != 0].min()
    assert bool((delta.abs()[kept == 0] <= least).all())
    thinned = dropped(delta, 0.25, torch.Generator().manual_seed(0))
    there = thinned != 0
    assert 0.2 < float(there.float().mean()) < 0.3
    torch.testing.assert_close(thinned[there], delta[there] * 4)


class Net(nn.Module):
    def __init__(self, conv: bool) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 6, 3) if conv else nn.Linear(7, 6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


@pytest.mark.parametrize("scaling", ["lora", "rslora"])
@pytest.mark.parametrize("conv", [False, True], ids=["linear", "conv"])
@pytest.mark.parametrize("how", HOWS)
def test_the_numbers_are_those_of_peft(how: How, conv: bool, scaling: str) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"target_modules": ["layer"], "use_rslora": scaling == "rslora"}
    names, weights, density = ["first", "second", "third"], [0.5, 1.5, 1.0], 0.4
    model = peft.get_peft_model(Net(conv), peft.LoraConfig(r=2, lora_alpha=3, **options), names[0])
    for name in names[1:]:
        model.add_adapter(name, peft.LoraConfig(r=2, lora_alpha=5, **options))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_" in key:
                parameter.copy_(torch.randn(parameter.shape))
    layer = model.base_model.model.layer
    deltas = [layer.get_delta_weight(name).detach() for name in names]
    rank = 2 if how == "svd" else 6  # All there is, where nothing is to be cut.
    if how == "dare_ties":  # PEFT makes the new adapter's factors from the same stream before.
        torch.manual_seed(5)
        theirs = merge_utils.dare_ties(deltas, torch.tensor(weights), density)
    else:
        way = IN_PEFT[how]
        model.add_weighted_adapter(names, weights, "merged", way, svd_rank=rank, density=density)
        # With rslora PEFT's merged adapter is too large by sqrt(rank): its scale is not taken out.
        scale = layer.scaling["merged"]
        assert scale == pytest.approx(rank**0.5 if scaling == "rslora" else 1.0)
        theirs = layer.get_delta_weight("merged").detach() / scale
    generator = torch.Generator().manual_seed(5)
    ours = merge_deltas(deltas, weights, how, density, rank, generator)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert float(ours.abs().max()) > 0.1


@pytest.mark.parametrize("conv", [False, True], ids=["linear", "conv"])
def test_a_dense_change_is_the_weight_changed(conv: bool) -> None:
    base = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2) if conv else nn.Linear(7, 6)
    x = random(3, 4, 9, 9) if conv else random(3, 7)
    delta = random(*base.weight.shape, seed=4)
    adapter = Dense(delta)
    out = adapter(x, base(x), base)
    with torch.no_grad():
        base.weight.copy_(adapter.merged_weight(base.weight, base))
    torch.testing.assert_close(out, base(x))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tie", 2, [1.0, 1.0], 1.0), "how 'tie' is not one of linear, cat, svd, ties"),
        (("ties", 0, [], 1.0), "no tasks"),
        (("ties", 2, [1.0], 1.0), "1 weights for 2 tasks"),
        (("ties", 2, [1.0, math.nan], 1.0), "weights 1, nan: all must be finite"),
        (("ties", 1, [1.0], 0.0), "density 0 is not allowed"),
        (("ties", 1, [1.0], 1.5), "density 1.5 is not allowed"),
    ],
)
def test_what_cannot_be_merged(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(MethodError, match=said):
        require_merge(*arguments)
