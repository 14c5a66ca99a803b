"""Every method on networks for images: one epoch, two tasks, images of 16 x 16."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_cl.adapters import adapted_layers
from lora_cl.errors import ConfigError
from lora_cl.records.results import read_result
from lora_cl.running.loading import load_run
from lora_cl.testing.runs import outcome, run_done, runs_of

TEXT = """
name: images
benchmark:
  name: split
  tasks: 2
  dataset:
    {{name: synthetic, classes: 4, shape: [1, 16, 16], train_per_class: 10, test_per_class: 5}}
model: {model}
train: {{epochs: 1, batch_size: 10, lr: 1e-3}}
methods: {{one: {method}}}
"""
MODELS = {
    "vit": "{name: vit, width: 8, depth: 1, heads: 2}",
    "timm": "{name: timm, model: test_efficientnet}",
}
LOW_RANK = ("lora", "dora", "seq_lora", "o_lora", "inflora")
METHODS = {
    **{
        name: f"{{method: {name}}}"
        for name in ("full", "frozen", "joint", "independent", "packnet", "ewc", "si", "lwf")
    },
    "replay": "{method: replay, per_class: 2}",
    "pnn": "{method: pnn, start: base}",
    "shared_private": "{method: shared_private, private_dim: 2}",
    **{name: f"{{method: {name}, rank: 2}}" for name in LOW_RANK},
    "adalora": "{method: adalora, rank: 2, target_rank: 1}",
    "qlora": "{method: qlora, rank: 2}",
    **{
        f"ewc-{name}": f"{{method: ewc, adapter: {{name: {name}, rank: 2}}}}"
        for name in ("lora", "dora", "qlora")
    },
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_two_tasks(tmp_path: Path, method: str, model: str) -> None:
    folder = run_done(TEXT.format(model=MODELS[model], method=METHODS[method]), tmp_path)
    result = read_result(folder)
    assert result is not None
    assert all(entry is not None for entry in result["accuracy_matrix"][-1])


@pytest.mark.parametrize("method", [*LOW_RANK, "adalora", "ewc-lora", "ewc-qlora", "qlora"])
def test_adapters_reach_packed_attention(tmp_path: Path, method: str) -> None:
    text = TEXT.format(model="{name: 'encoder_backbone:Encoder'}", method=METHODS[method])
    folder = run_done(text, tmp_path)
    result = read_result(folder)
    assert result is not None
    assert all(entry is not None for entry in result["accuracy_matrix"][-1])
    method_again = load_run(folder)
    layers = adapted_layers(method_again.network.backbone)
    assert len(layers) == 1 + 2 * 4
    assert "encoder.layers.1.self_attn.in_proj" in layers
    assert not list(folder.rglob("adapter_config.json"))


@pytest.mark.parametrize("model", MODELS)
def test_the_same_bytes_again(tmp_path: Path, model: str) -> None:
    text = TEXT.format(model=MODELS[model], method=METHODS["lora"])
    first, second = (outcome(run_done(text, tmp_path / name)) for name in ("first", "second"))
    assert first == second


GROUPED = {
    "{method: lora, rank: 2, targets: ['*conv_dw*']}": "multiple of 128, where an adapter is",
    "{method: o_lora, rank: 2, targets: ['*conv_dw*']}": "multiple of 128, where an adapter is",
    "{method: adalora, rank: 8, targets: ['*conv_dw*']}": "a convolution with groups is not one",
    "{method: inflora, rank: 2, targets: ['*conv_dw*']}": "groups",
}


@pytest.mark.parametrize("method", GROUPED)
def test_what_fits_no_convolution_with_groups_is_told_before_anything_starts(method: str) -> None:
    with pytest.raises(ConfigError, match=GROUPED[method]):
        runs_of(TEXT.format(model=MODELS["timm"], method=method))


def test_a_depthwise_convolution_is_adapted_where_that_is_asked_for(tmp_path: Path) -> None:
    wide = "{method: lora, rank: 384, targets: ['*conv_dw*']}"
    folder = run_done(TEXT.format(model=MODELS["timm"], method=wide), tmp_path)
    result = read_result(folder)
    assert result is not None
    # Of 128 and 192 channels with kernels 3 x 3: A has 384 of them, B 384 / groups for each.
    adapters = 2 * 384 * 9 + 128 * 3 + 192 * 2
    cost = result["cost"]
    # Its file for PEFT is filled up with zeros, which are no parameters.
    assert cost["trained_params_per_task"] == cost["added_params_per_task"] == adapters + 2 * 257
