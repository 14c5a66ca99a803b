"""Blocks whose activations are computed again: fewer are held, and no bit changes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from image_cases import backbone
from text_cases import save_model, save_tokenizer
from torch import Tensor, nn

from lora_cl.adapters import activate, add_adapter, make_lora, match_targets, wrap
from lora_cl.config import parse_config
from lora_cl.errors import ConfigError
from lora_cl.models.checkpointing import blocks, checkpoint_blocks
from lora_cl.testing.contract import learned_by
from lora_cl.testing.runs import TINY, run_done, runs_of


def transformer(folder: Path, kind: str, **options: Any) -> nn.Module:
    save_model(folder, kind)
    save_tokenizer(folder)
    return backbone("transformers", (12,), model=str(folder), max_length=12, dropout=0.3, **options)


CASES = {
    "vit": lambda folder, **o: backbone("vit", depth=4, width=16, heads=2, **o),
    "norms with statistics": lambda folder, **o: backbone("torchvision", size=32, **o),
    "bert": lambda folder, **o: transformer(folder, "bert", **o),
    "gpt2": lambda folder, **o: transformer(folder, "gpt2", **o),
}


def step(network: nn.Module, x: Tensor) -> tuple[list[Tensor], int]:
    """Output, gradients and statistics of a step, and the bytes that were held for it."""
    held: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        held[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = network(x)
    weights = {parameter.data_ptr() for parameter in network.parameters()}
    out.square().sum().backward()
    grads = [p.grad for p in network.parameters() if p.grad is not None]
    return [out, *grads, *network.buffers()], sum(
        size for place, size in held.items() if place not in weights
    )


@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_same_bits_from_fewer_activations(case: str, adapted: bool, tmp_path: Path) -> None:
    plain = CASES[case](tmp_path)
    if adapted:
        wrap(plain, match_targets(plain, "all-linear"))
        generator = torch.Generator().manual_seed(0)
        make = lambda _, base: make_lora(base, rank=2, alpha=4.0, generator=generator)  # noqa: E731
        add_adapter(plain, "task", make)
        activate(plain, "task")
    again = copy.deepcopy(plain)
    assert checkpoint_blocks(again) == {"vit": 4, "norms with statistics": 8}.get(case, 2)
    texts = case in ("bert", "gpt2")
    x = torch.randint(0, 30, (6, 12)) if texts else torch.rand(6, 1, 16, 16)
    ours, held = step(copy.deepcopy(again).train(), x)  # A copy computes with its own weights.
    right, before = step(plain.train(), x)
    assert len(ours) == len(right) > 10
    assert all(torch.equal(a, b) for a, b in zip(ours, right, strict=True))
    assert held < 0.7 * before
    again.eval()
    plain.load_state_dict(again.state_dict())
    with torch.no_grad():
        assert torch.equal(again(x), plain.eval()(x))


def test_blocks_are_what_repeats_and_has_parts() -> None:
    inner = nn.Sequential(nn.Linear(2, 2), nn.ReLU())

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList([nn.Sequential(*copy.deepcopy(inner)) for _ in range(2)])

    assert blocks(nn.Sequential(inner, copy.deepcopy(inner))) == []
    found = blocks(nn.ModuleList([Block(), Block(), nn.Linear(2, 2), nn.Linear(2, 2)]))
    assert [type(block) for block in found] == [Block, Block]


def test_the_option_changes_no_name_of_a_run_and_is_refused_where_nothing_repeats() -> None:
    text = TINY.format(scenario="task", method="full: {}").replace(
        "features: 12", "shape: [1, 8, 8]"
    )
    deep = "model={name: vit, width: 8, heads: 2, depth: 2}"
    (plain,) = runs_of(text, deep)
    (again,) = runs_of(text, deep, "model.checkpointing=true")
    assert again.run_hash == plain.run_hash
    assert parse_config(text, "t.yaml", [deep]).config.model.checkpointing is False
    with pytest.raises(ConfigError, match="repeats no blocks"):
        runs_of(text, "model={name: torchvision, model: vgg11, size: 32, checkpointing: true}")


@pytest.mark.parametrize(
    "method",
    [
        "ewc: {strength: 10}",
        "ewc: {strength: 10, adapter: {name: lora, rank: 2}}",
        "ewc: {strength: 10, adapter: {name: qlora, rank: 2}}",
        "lwf: {}",
        "derpp: {}",
        "inflora: {rank: 2}",
    ],
)
def test_methods_that_differentiate_otherwise_learn_the_same(method: str, tmp_path: Path) -> None:
    text = TINY.format(scenario="class", method=method).replace("features: 12", "shape: [1, 8, 8]")
    text = text.replace("{name: mlp, hidden: [10, 8]}", "{name: vit, width: 8, heads: 2, depth: 2}")
    assert "vit" in text
    plain = learned_by(run_done(text, tmp_path / "plain"))
    deep = text.replace("depth: 2", "depth: 2, checkpointing: true")
    assert learned_by(run_done(deep, tmp_path / "deep")) == plain
