"""Batches taken in parts: `train.micro_batch`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lora_cl.errors import ConfigError
from lora_cl.methods.replay import Replay
from lora_cl.records.results import read_result
from lora_cl.running.runner import Outcome, Where, run_one
from lora_cl.testing.interrupting import cut_and_compare
from lora_cl.testing.runs import one_run, outcome
from lora_cl.training import loop

PARTS = "train.micro_batch=5"
SGD = ("train.optimizer=sgd", "train.lr=0.1")
"""Adam divides by the size of a gradient, and makes of its rounding what it likes."""


OPTIONS = {"ewc": "{strength: 1}"}


def learned(method: str, place: Path, *overrides: str) -> Path:
    run = one_run(method, "task", *SGD, *overrides)
    assert run is not None
    assert run_one(run, Where(place)) == Outcome("done")
    return place / run.folder


HOOKED = ("ewc", "si", "lwf", "replay", "packnet", "adalora", "o_lora", "shared_private")
"""Methods with a loss, a penalty, or work to do around a step, of their own."""


@pytest.mark.parametrize("method", HOOKED)
def test_methods_learn_the_same_in_parts(method: str, tmp_path: Path) -> None:
    options = f"{method}: {OPTIONS.get(method, '{}')}"
    whole = learned(options, tmp_path / "whole")
    parts = learned(options, tmp_path / "parts", PARTS)
    results = [read_result(folder) for folder in (whole, parts)]
    assert results[0] is not None
    assert results[1] is not None
    assert results[0]["hash"] != results[1]["hash"]
    names = [file.relative_to(whole) for file in sorted(whole.rglob("*.safetensors"))]
    compared = 0
    for name in names:
        ours, theirs = load_file(parts / name), load_file(whole / name)
        assert ours.keys() == theirs.keys()
        for key, tensor in theirs.items():
            if tensor.is_floating_point():
                torch.testing.assert_close(ours[key], tensor, rtol=1e-3, atol=1e-4, msg=key)
                compared += 1
    assert compared >= 2


def test_replay_draws_the_same_samples_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[torch.Tensor] = []
    draw = Replay.draw

    def watched(self: Replay, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = draw(self, count)
        drawn.append(x)
        return x, y

    monkeypatch.setattr(Replay, "draw", watched)
    learned("replay: {}", tmp_path / "whole")
    whole, calls = torch.cat(drawn), len(drawn)
    drawn.clear()
    learned("replay: {}", tmp_path / "parts", PARTS)
    assert torch.equal(torch.cat(drawn), whole)
    assert len(drawn) > 2 * calls >= 2 * 6


def test_no_more_than_a_part_goes_through_the_network_at_once() -> None:
    class Learner:
        def __init__(self) -> None:
            self.sizes: list[int] = []

        def loss(self, network: object, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            self.sizes.append(len(x))
            return ((x * w).squeeze(1) - y).square().mean()

        def penalty(self) -> torch.Tensor:
            return w.square().sum()

    w = torch.ones(1, requires_grad=True)
    x, y = torch.randn(16, 1), torch.randn(16)
    gradients, learner = [], Learner()
    for micro_batch in (None, 16, 5):
        w.grad = None
        products = loop.precise("float32", x.device)
        loss = loop.backward(learner, None, x, y, micro_batch, products)  # type: ignore[arg-type]
        assert not loss.requires_grad
        gradients.append(torch.stack([loss, w.grad.squeeze()]))  # type: ignore[union-attr]
    assert learner.sizes == [16, 16, 5, 5, 5, 1]
    assert torch.equal(gradients[0], gradients[1])
    torch.testing.assert_close(gradients[2], gradients[0])


def test_same_bytes_cut_off_and_with_and_without_the_frozen_prefix_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = outcome(learned("frozen: {}", tmp_path / "kept", PARTS))
    anew = outcome(learned("frozen: {}", tmp_path / "anew", PARTS, "cache=false"))
    assert kept["result"]["accuracy_matrix"] == anew["result"]["accuracy_matrix"]
    run = one_run("replay: {}", "task", PARTS)
    assert run is not None
    cut_and_compare(run, tmp_path / "cut", monkeypatch)


def test_a_loss_that_compares_the_samples_of_a_batch_is_refused() -> None:
    one_run("shared_private: {}", "task", PARTS)
    for where in ("train.micro_batch=5", "methods.shared_private.train.micro_batch=5"):
        with pytest.raises(ConfigError, match="micro_batch 5 does not go with a loss that comp"):
            one_run("shared_private: {difference: 0.1}", "task", where)
