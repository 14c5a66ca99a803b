"""Blocks that are frozen and come first are computed once, whatever the network around them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adapted_cases import adapted, grads, network_of
from text_cases import backbone, save_model, sentences, tokens_of
from torch import Tensor, nn

from lora_cl.models import trainable_only
from lora_cl.models.cut import Beginning, Rest, UncuttableError, cut
from lora_cl.models.prefix import without_prefix


class Block(nn.Module):
    """h -> W h, in a tuple or alone; it counts how often it was asked."""

    def __init__(self, width: int, in_tuple: bool) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.in_tuple, self.asked = in_tuple, 0

    def forward(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        self.asked += 1
        out = self.linear(self.norm(hidden)) * (1 if mask is None else mask)
        return (out,) if self.in_tuple else out


class Blocks(nn.Module):
    """(N, T, width) -> (N, width)."""

    def __init__(self, width: int = 6, depth: int = 3, in_tuple: bool = False) -> None:
        super().__init__()
        self.into = nn.Linear(width, width)
        self.drop = nn.Dropout(0.0)
        self.layers = nn.ModuleList(Block(width, in_tuple) for _ in range(depth))
        self.end = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.drop(self.into(x))
        for layer in self.layers:
            out = layer(hidden, mask=torch.ones_like(x[:, :, :1]))
            hidden = out[0] if isinstance(out, tuple) else out
        pooled: Tensor = self.end(hidden).mean(1)
        return pooled


def blocks_of(trained: int, **options: bool) -> Blocks:
    """Blocks of which the last ``trained`` train, and nothing else."""
    torch.manual_seed(0)
    made = Blocks(**options)
    trainable_only(made, list(made.layers[len(made.layers) - trained :]))
    return made


@pytest.mark.parametrize("in_tuple", [False, True])
def test_frozen_blocks_are_asked_once(in_tuple: bool) -> None:
    whole = blocks_of(1, in_tuple=in_tuple)
    x = torch.rand(16, 4, 6)
    expected = whole(x)
    beginning, rest = cut(whole)
    rows = beginning(x)
    assert rows.shape == (16, 4 * 6)
    asked = [layer.asked for layer in whole.layers]
    assert torch.equal(rest(rows), expected)
    assert torch.equal(rest(rows[3:7]), expected[3:7])
    assert [layer.asked - before for layer, before in zip(whole.layers, asked, strict=True)] == [
        0, 0, 2,
    ]  # fmt: skip
    # Afterwards all is as it was.
    assert torch.equal(whole(x), expected)
    assert not any("forward" in vars(layer) for layer in whole.layers)
    assert not any(layer._forward_pre_hooks or layer._forward_hooks for layer in whole.layers)


def test_where_it_is_cut() -> None:
    for trained, parts in {0: 1, 1: 2, 2: 2, 3: 1}.items():
        found = cut(blocks_of(trained))
        assert len(found) == parts, trained
        if parts == 2:
            beginning, rest = found
            assert isinstance(beginning, Beginning)
            assert isinstance(rest, Rest)
            assert len(beginning.blocks) == 3 - trained
            assert not any(p.requires_grad for p in beginning.parameters())


def change_what_comes_first(whole: Blocks) -> None:
    whole.into.requires_grad_(True)


def change_what_comes_last(whole: Blocks) -> None:
    whole.end.requires_grad_(True)


def drop_some(whole: Blocks) -> None:
    whole.drop.p = 0.1


def drop_some_by_a_number(whole: Blocks) -> None:
    whole.hidden_dropout_prob = 0.1  # type: ignore[assignment]


@pytest.mark.parametrize(
    "changed",
    [change_what_comes_first, change_what_comes_last, drop_some, drop_some_by_a_number],
)
def test_what_can_change_from_step_to_step_is_not_kept(changed: Callable[[Blocks], None]) -> None:
    whole = blocks_of(1)
    changed(whole)
    assert cut(whole) == [whole]
    assert not whole.training


def test_dropout_within_frozen_parts_is_off_and_within_the_others_is_theirs() -> None:
    whole = blocks_of(1)
    for layer in whole.layers:
        layer.dropout = nn.Dropout(0.5)
    assert len(cut(whole)) == 2


def test_blocks_that_hand_on_more_are_left_whole() -> None:
    whole = blocks_of(1)
    for layer in whole.layers:
        layer.register_forward_hook(lambda _, __, out: (out, torch.ones(1)))
    beginning, _ = cut(whole)
    with pytest.raises(UncuttableError):
        beginning(torch.rand(8, 4, 6))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("cut")
    for kind in ("bert", "gpt2", "t5"):
        save_model(place / kind, kind)
    return place


@pytest.mark.parametrize(
    ("kind", "names", "shorter_by"),
    [
        ("bert", ["model.encoder.layer.1.attention.self.query"], 1),
        ("gpt2", ["model.h.1.attn.c_attn"], 1),
        (
            "t5",
            ["model.block.1.layer.0.SelfAttention.q"],
            0,
        ),  # Its first block makes a bias for all.
    ],
)
def test_texts_come_to_the_same_bits(
    kind: str, names: list[str], shorter_by: int, place: Path
) -> None:
    network = backbone(place / kind, dropout=0.0)
    whole = network_of(network, 16)
    trainable_only(whole, [*adapted(network, names), *whole.heads])
    tokens = tokens_of(place / kind, sentences(40))
    shorter, rows = without_prefix(whole, tokens, batch_size=8)
    if not shorter_by:
        assert shorter is whole
        assert rows is tokens
        return
    assert rows.shape == (40, 16 + 16 * 16)
    chosen = torch.tensor([5, 1, 30, 22, 17, 39, 2, 8])
    given: list[Tensor] = []
    layer = network.get_submodule(names[0])
    layer.register_forward_pre_hook(lambda _, given_now: given.append(given_now[0]))
    expected = [whole(tokens[chosen]), *grads(whole, tokens[chosen])]
    found = [shorter(rows[chosen]), *grads(shorter, rows[chosen])]
    assert len(found) == 1 + 4  # A and B, and a head's weight and bias.
    # Matrix products of wide networks round otherwise where rows lie apart.
    assert len(given) >= 8
    assert all(hidden.is_contiguous() for hidden in given)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_what_a_text_network_drops_of_its_embeddings_is_dropped_anew(place: Path) -> None:
    """GPT-2 drops beside its blocks; BERT within its embeddings, which are frozen."""
    for kind, name, parts in (
        ("bert", "model.encoder.layer.1.attention.self.query", 2),
        ("gpt2", "model.h.1.attn.c_attn", 1),
    ):
        network = backbone(place / kind, dropout=0.1)
        trainable_only(network, adapted(network, [name]))
        assert len(cut(network)) == parts, kind
