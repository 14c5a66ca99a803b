"""Adapters of a run put together: identities of networks, and the table of accuracies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from process_cases import ask
from safetensors.torch import load_file

import lora_cl
from lora_cl.adapters.merging import HOWS
from lora_cl.errors import MethodError
from lora_cl.methods.adapted import AdapterPerTask
from lora_cl.records.folders import read_record
from lora_cl.running.merging import Merge, merged_backbone, merged_deltas
from lora_cl.testing.runs import run_done

CONFIG = """
name: merging
benchmark: {{name: split, tasks: 3, dataset: {{name: synthetic, classes: 6, features: 12}}}}
scenario: {scenario}
model: {{name: mlp, hidden: [10, 8]}}
train: {{epochs: 2, batch_size: 16, lr: 0.01}}
methods: {{it: {{method: {method}}}}}
"""
METHODS = {
    "lora": "lora, rank: 2",
    "rslora": "lora, rank: 2, scaling: rslora",
    "dora": "dora, rank: 2",
    "adalora": "adalora, rank: 3, target_rank: 2, every: 1",
    "qlora": "qlora, rank: 2",
}


def done(place: Path, method: str, scenario: str = "task") -> Path:
    return run_done(CONFIG.format(method=METHODS.get(method, method), scenario=scenario), place)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: done(tmp_path_factory.mktemp(name), name) for name in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_one_adapter_at_weight_1_is_itself_whichever_way(
    method: str, runs: dict[str, Path]
) -> None:
    restored = lora_cl.load_run(runs[method])
    assert isinstance(restored, AdapterPerTask)
    x = restored.benchmark.task(0).test().x
    for task in range(3):
        with torch.inference_mode(), restored.view(task) as network:
            features = network.backbone(x).clone()
        for how in HOWS:
            merge = Merge([task], how, [1.0], density=1.0, rank=10)
            backbone = merged_backbone(restored, merged_deltas(restored, merge))
            with torch.inference_mode():
                torch.testing.assert_close(backbone(x), features, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_the_sum_of_two_is_the_sum_of_their_changes(method: str, runs: dict[str, Path]) -> None:
    restored = lora_cl.load_run(runs[method])
    assert isinstance(restored, AdapterPerTask)
    one, other = restored.deltas(0), restored.deltas(2)
    merged = merged_deltas(restored, Merge([2, 0], "linear", [0.5, 2.0]))
    assert merged.keys() == one.keys() == {"linear1", "linear2"}
    for layer, delta in merged.items():
        torch.testing.assert_close(delta, 2.0 * one[layer] + 0.5 * other[layer])


def test_the_table_and_the_network(runs: dict[str, Path], tmp_path: Path) -> None:
    run = runs["lora"]
    code, out, err = ask("adapters", "merge", run, "--tasks", "0,2", "--how", "linear,ties")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["task", "no", "adapter", "its", "own", "linear", "ties", "name"]
    assert [line.split()[0] for line in lines[1:]] == ["0", "2", "mean"]
    target = tmp_path / "merged"
    code, out, err = ask(
        "adapters", "merge", run, "--how", "svd", "--rank", "2", "--format", "json", "-o", target
    )
    assert (code, err) == (0, f"written to {target}\n")
    found = json.loads(out)
    last = read_record(run).result["accuracy_matrix"][-1]
    assert [one["own"] for one in found] == last
    assert all(0.0 <= one["merged"]["svd"] <= 1.0 for one in found)
    # What was written is what was measured.
    base = lora_cl.load_base(run, 0)
    missing, unexpected = base.load_state_dict(
        load_file(target / "model.safetensors"), strict=False
    )
    assert (missing, unexpected) == (["head.weight", "head.bias"], [])
    restored = lora_cl.load_run(run)
    for task in range(3):
        base.head.load_state_dict(load_file(target / f"head-{task:03d}.safetensors"))  # type: ignore[operator,union-attr]
        samples = restored.benchmark.task(task).test()
        right = (base(samples.x).argmax(1) == samples.y).float().mean()
        assert float(right) == pytest.approx(found[task]["merged"]["svd"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tasks", "0,7"], "task 7 is not in the bank; there are: 0, 1, 2"),
        (["--tasks", "a"], "--tasks a: is no list of numbers"),
        (["--weights", "1,2"], "2 weights for 3 tasks"),
        (["--how", "tie"], "--how tie: is not one of linear, cat"),
        (["--how", "ties", "--density", "2"], "density 2 is not allowed"),
        (["--how", "all", "-o", "x"], "output: holds one merged network"),
    ],
)
def test_wrong_requests(arguments: list[str], said: str, runs: dict[str, Path]) -> None:
    code, out, err = ask("adapters", "merge", runs["lora"], *arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_what_has_no_bank_cannot_be_merged(tmp_path: Path) -> None:
    run = done(tmp_path, "full")
    with pytest.raises(MethodError, match="full keeps no adapter per task"):
        lora_cl.merge_adapters(run)


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_the_method_answers_as_the_merge_of_its_bank(scenario: str, tmp_path: Path) -> None:
    """Also after loading; and no task id is asked for where it is withheld."""
    run = done(tmp_path, "merged, rank: 2, how: linear", scenario)
    record = read_record(run).result
    assert record["needs_task_id"] is False
    assert record["isolated"] is False
    restored = lora_cl.load_run(run)
    assert isinstance(restored, AdapterPerTask)
    merged = merged_backbone(restored, merged_deltas(restored, Merge([0, 1, 2], "linear")))
    x = restored.benchmark.task(1).test().x
    with torch.inference_mode(), restored.view(1) as network:
        torch.testing.assert_close(network.backbone(x), merged(x), rtol=1e-5, atol=1e-5)
        assert network(x).shape == (len(x), 6 if scenario == "class" else 2)
    labels, probabilities, tasks = restored.predict(x, task=1 if scenario == "task" else None)
    assert probabilities.shape == (len(x), 6 if scenario == "class" else 2)
    assert (tasks is None) == (scenario != "task")
    assert set(labels) <= {str(k) for k in range(6)}
    # The base, and the heads: every adapter is in the weights.
    base = 12 * 10 + 10 + 10 * 8 + 8
    heads = (8 + 1) * 2 * (1 if scenario == "domain" else 3)
    assert record["cost"]["total_params"] == base + heads
