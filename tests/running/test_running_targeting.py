"""`targets: {auto: k}`: what is chosen, on what, and that it is in the record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest
import torch
from torch import nn

from lora_cl.adapters import adapted_layers
from lora_cl.benchmarks import Benchmark, permutation
from lora_cl.config import Config, parse_config
from lora_cl.errors import ConfigError
from lora_cl.methods.shared import AutoTargets
from lora_cl.models import seeded
from lora_cl.records.results import read_result
from lora_cl.running import targeting
from lora_cl.running.base import base_network
from lora_cl.running.loading import load_run
from lora_cl.running.making import make_benchmark
from lora_cl.running.runner import Outcome, Where, run_one
from lora_cl.seeding import seed_for
from lora_cl.testing.runs import TINY, one_run, outcome
from lora_cl.training.optimizers import Adam

CPU = torch.device("cpu")
AUTO = "{auto: 1, steps: 20, lr: 0.01}"


def learned(method: str, results: Path, data_dir: Path) -> Path:
    run = one_run(method)
    assert run is not None
    assert run_one(run, Where(results, data_dir=data_dir)) == Outcome("done")
    return results / run.folder


def config() -> Config:
    return parse_config(TINY.format(scenario="task", method="full: {}"), "t.yaml").config


def test_how_far_layers_move_against_a_fine_tune_written_out(tmp_path: Path) -> None:
    made = make_benchmark(config(), 0, CPU, tmp_path)
    network = base_network(config(), 0, made, CPU, tmp_path)

    def never() -> NoReturn:
        raise AssertionError("test samples were asked for")

    def task(index: int) -> Any:
        assert index == 0
        return replace(made.task(0), test=never, validation=never)

    auto, benchmark = AutoTargets(auto=2, steps=20, lr=0.01), SimpleNamespace(task=task)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = targeting.choose(
        auto, network, cast(Benchmark, benchmark), config(), 0, tmp_path, {"code": "x"}
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())

    with seeded(seed_for(0, "choice of targets head")):
        head = nn.Linear(8, 2)
    samples, backbone = made.task(0).train(), base_network(config(), 0, made, CPU, tmp_path)
    whole = nn.Sequential(backbone.backbone, head).requires_grad_(True).train()
    optimizer = Adam([{"params": list(whole.parameters()), "lr": 0.01}], 0.0)
    steps = 0
    for epoch in range(7):
        seed = seed_for(0, "choice of targets batches", epoch)
        for index in torch.split(permutation(len(samples.y), seed), 16):
            if steps < 20:
                optimizer.zero_grad()
                nn.functional.cross_entropy(whole(samples.x[index]), samples.y[index]).backward()
                optimizer.step()
                steps += 1
    assert steps == 20
    for name in ("linear1", "linear2"):
        old = before[f"backbone.{name}.weight"]
        new = backbone.backbone.get_parameter(f"{name}.weight").detach()
        moved = float((new - old).norm() / old.norm())
        assert found[name] == pytest.approx(moved, rel=1e-4)
    assert list(found.values()) == sorted(found.values(), reverse=True)


@pytest.mark.parametrize(
    "method",
    [
        f"lora: {{rank: 2, targets: {AUTO}}}",
        f"adalora: {{rank: 2, target_rank: 1, targets: {AUTO}}}",
        f"inflora: {{rank: 2, targets: {AUTO}}}",
        f"ewc: {{adapter: {{name: lora, rank: 2, targets: {AUTO}}}}}",
    ],
)
def test_the_choice_is_adapted_and_in_the_record(method: str, tmp_path: Path) -> None:
    folder = learned(method, tmp_path / "results", tmp_path / "data")
    result = read_result(folder)
    assert result is not None
    details = result["details"]
    assert set(details["relative_updates"]) == {"linear1", "linear2"}
    first = max(details["relative_updates"], key=details["relative_updates"].get)
    assert details["targets"] == [first]
    loaded = load_run(folder, data_dir=tmp_path / "data")
    assert list(adapted_layers(loaded.network.backbone)) == [first]


def test_same_bytes_whether_the_choice_was_kept_or_made_again(tmp_path: Path) -> None:
    method = f"lora: {{rank: 2, targets: {AUTO}}}"
    first = outcome(learned(method, tmp_path / "first", tmp_path / "data"))
    kept = list((tmp_path / "data" / "targets").glob("*.safetensors"))
    assert len(kept) == 1
    stamp = kept[0].stat().st_mtime_ns
    assert outcome(learned(method, tmp_path / "second", tmp_path / "data")) == first
    assert kept[0].stat().st_mtime_ns == stamp
    assert outcome(learned(method, tmp_path / "third", tmp_path / "elsewhere")) == first
    kept[0].write_bytes(b"torn")
    assert outcome(learned(method, tmp_path / "fourth", tmp_path / "data")) == first


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"auto: 3 is more than the model's 2 layers: linear1, l"):
        one_run("lora: {targets: {auto: 3}}")
    with pytest.raises(ConfigError, match=r"methods\.lora\.targets.*auto"):
        one_run("lora: {targets: {auto: 0}}")
