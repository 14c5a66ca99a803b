"""Training with products in bfloat16: `train.precision`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from lora_cl.methods import METHODS
from lora_cl.running.runner import Outcome, Where, run_one
from lora_cl.running.session import Session
from lora_cl.testing.runs import TINY, log, one_run, outcome, runs_of
from lora_cl.training.loop import precise

BF16 = "train.precision=bf16"
CPU = torch.device("cpu")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_in_it_and_what_it_learns_is_float32(
    method: str, tmp_path: Path
) -> None:
    run = one_run(f"{method}: {{}}", "task", BF16)
    assert run is not None
    assert run_one(run, Where(tmp_path)) == Outcome("done")
    losses = [event["loss"] for event in log(tmp_path / run.folder) if event["event"] == "epoch"]
    assert losses
    assert all(0.0 < loss < 20.0 for loss in losses)
    held = {k: v for k, v in outcome(tmp_path / run.folder)["files"].items() if "safetensors" in k}
    assert held
    assert not [name for name, content in held.items() if b'"BF16"' in content]


def trained(tmp_path: Path, method: str, *overrides: str) -> dict[str, Any]:
    run = one_run(method, "task", *overrides)
    assert run is not None
    assert run_one(run, Where(tmp_path)) == Outcome("done")
    return outcome(tmp_path / run.folder)


def test_it_is_another_run_that_ends_near_the_one_in_float32(tmp_path: Path) -> None:
    short = trained(tmp_path / "short", "lora: {}", BF16)
    whole = trained(tmp_path / "whole", "lora: {}")
    assert short["result"]["hash"] != whole["result"]["hash"]
    assert short["files"] != whole["files"]
    last = [run["result"]["accuracy_matrix"][-1] for run in (short, whole)]
    assert abs(sum(last[0]) - sum(last[1])) / 3 < 0.1


@pytest.mark.parametrize("method", ["lora: {}", "full: {}", "frozen: {}"])
def test_same_seed_same_bytes_with_and_without_the_frozen_prefix_kept(
    method: str, tmp_path: Path
) -> None:
    kept = trained(tmp_path / "kept", method, BF16)
    again = trained(tmp_path / "again", method, BF16)
    assert kept == again
    anew = trained(tmp_path / "anew", method, BF16, "cache=false")
    compared = 0
    for name, content in kept["files"].items():
        if name.endswith(".safetensors"):
            before, after = load(content), load(anew["files"][name])
            assert before.keys() == after.keys()
            for key, tensor in before.items():
                assert torch.equal(tensor, after[key]), (name, key)
                compared += 1
    assert compared >= 6
    assert anew["result"]["accuracy_matrix"] == kept["result"]["accuracy_matrix"]


def test_a_method_can_have_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = "a: {method: full, train: {precision: bf16}}, b: {method: full}"
    seen: dict[str, set[torch.dtype]] = {"a": set(), "b": set()}
    prepare = Session.prepare
    for run in runs_of(TINY.format(scenario="task", method=methods)):

        def watched(self: Session, index: int, into: set[torch.dtype] = seen[run.label]) -> Any:
            layer = self.method.network.backbone[1]
            layer.register_forward_hook(
                lambda _, __, out: into.add(out.dtype) if torch.is_grad_enabled() else None
            )
            return prepare(self, index)

        monkeypatch.setattr(Session, "prepare", watched)
        assert run_one(run, Where(tmp_path)) == Outcome("done")
    assert seen == {"a": {torch.bfloat16}, "b": {torch.float32}}


def test_inside_products_are_short_and_outside_they_are_whole() -> None:
    x = torch.ones(2, 2)
    half, whole = precise("bf16", CPU), precise("float32", CPU)
    for entered in range(2):
        with half:
            assert (x @ x).dtype == torch.bfloat16, entered
            assert torch.nn.functional.cross_entropy(x @ x, torch.tensor([0, 1])).dtype == x.dtype
        with whole:
            assert (x @ x).dtype == torch.float32, entered
    assert not torch.is_autocast_enabled("cpu")
