"""Runs cut off anywhere, with options and networks beyond the defaults that the contract tries."""

from __future__ import annotations

from pathlib import Path

import pytest
from method_cases import CNN, MLP, tiny

from lora_cl.running.preparation import prepare
from lora_cl.testing.interrupting import cut_and_compare

CASES = {
    "ewc: {fisher: sampled, strength: 3.0, adapter: {name: lora, rank: 2}}": (MLP, "class"),
    "si: {c: 0.5, adapter: {name: lora, rank: 2}}": (MLP, "class"),
    "lwf: {adapter: {name: lora, rank: 2}}": (MLP, "domain"),
    "derpp: {size: 20, adapter: {name: lora, rank: 2}}": (MLP, "task"),
    "sd_lora: {rank: 2, magnitudes: restart}": (CNN, "class"),
    "replay: {memory: reservoir, size: 40}": (MLP, "class"),
    "replay: {per_class: 5, adapter: {name: lora, rank: 2}}": (MLP, "task"),
    "adalora: {rank: 4, target_rank: 2}": (CNN, "task"),
    "dora: {rank: 2}": (CNN, "class"),
    "inflora: {rank: 2, classifier: local}": (MLP, "class"),
    "inflora: {rank: 2, epsilon: 0.9}": (CNN, "class"),
    "frozen: {classifier: {name: ranpac, width: 30}}": (MLP, "class"),
    "ewc: {classifier: ncm}": (MLP, "domain"),
    "lwf: {classifier: local}": (MLP, "class"),
    "o_lora: {rank: 2}": (CNN, "domain"),
    "independent: {hidden: [5, 3]}": (MLP, "task"),
    "packnet: {retrain_share: 0.5}": (MLP, "task"),
    "packnet: {keep: 0.4}": (CNN, "class"),
    "pnn: {column_width: 0.5}": (MLP, "task"),
    "shared_private: {private_dim: 4, difference: 0.001, shared_lr: 0}": (MLP, "task"),
}


@pytest.mark.parametrize("method", CASES)
def test_it_ends_with_the_same_bytes(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, scenario = CASES[method]
    (run,) = prepare(tiny(method, scenario, model), None, print)
    cut_and_compare(run, tmp_path, monkeypatch)
