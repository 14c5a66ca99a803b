from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from method_cases import run_one
from shared_backbone_cases import (
    accuracies,
    experiment,
    last_mean,
    learn,
    method_on,
    options,
    trunk_bytes,
)
from torch import nn
from torch.nn import functional

import lora_cl
from lora_cl.data import as_bytes, pixels
from lora_cl.errors import ConfigError
from lora_cl.methods.replay import Replay, balanced_choice, integers_for, smallest


def replay(scenario: str = "task", adapter: str = "", more: str = "per_class: 5") -> Replay:
    method = method_on(options("replay", adapter, more), scenario)
    assert isinstance(method, Replay)
    return method


# The memory


def test_the_smallest_keys_stay_in_order() -> None:
    keys = torch.tensor([0.5, 0.1, 0.9, 0.3])
    assert smallest(keys, 2).tolist() == [1, 3]
    assert smallest(keys, 3).tolist() == [0, 1, 3]
    assert smallest(keys, 9).tolist() == [0, 1, 2, 3]


def test_a_balanced_choice() -> None:
    y = torch.tensor([0] * 50 + [1] * 3 + [2] * 50)
    chosen = balanced_choice(y, 10, seed=0)
    assert torch.bincount(y[chosen]).tolist() == [10, 3, 10]
    assert len(chosen.unique()) == 23
    assert torch.equal(chosen, balanced_choice(y, 10, seed=0))
    assert not torch.equal(chosen, balanced_choice(y, 10, seed=1))


def test_a_stream_is_kept_evenly() -> None:
    """A memory of 20 over a stream of 40, 40 and 20 samples, in 500 trials."""
    counts = torch.zeros(3)
    for trial in range(500):
        generator = torch.Generator().manual_seed(trial)
        keys, part = torch.empty(0), torch.empty(0, dtype=torch.int64)
        for number, size in enumerate((40, 40, 20)):
            keys = torch.cat([keys, torch.rand(size, generator=generator)])
            part = torch.cat([part, torch.full((size,), number)])
            kept = smallest(keys, 20)
            keys, part = keys[kept], part[kept]
        counts += torch.bincount(part, minlength=3)
    # 8, 8 and 4 are expected; a count's standard deviation is below 2, its mean's below 0.09.
    assert (counts / 500).tolist() == pytest.approx([8, 8, 4], abs=0.4)


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_what_the_memory_holds(scenario: str) -> None:
    method = replay(scenario)
    learn(method, [0, 1])
    x, y, task = (method.kept[f"memory.{name}"] for name in ("x", "y", "task"))
    assert x.shape == (20, 32)
    assert task.tolist() == [0] * 10 + [1] * 10
    assert y.tolist() == ([0] * 5 + [1] * 5) * 2
    for row in range(20):
        samples = method.benchmark.task(int(task[row])).train()
        (found,) = torch.nonzero((samples.x == x[row]).all(1))
        assert int(samples.y[found]) == int(y[row])
    assert method.details() == {"memory_samples_per_task": [10, 10]}


def test_a_reservoir_stays_at_its_size() -> None:
    method = replay(more="memory: reservoir, size: 40")
    held = []
    for task_id in range(3):
        learn(method, [task_id])
        held.append(method.details()["memory_samples_per_task"])
    # 48 samples a task: 40, then 20 + 20, then 40 / 3 each; five standard deviations are below 15.
    assert [sum(counts) for counts in held] == [40, 40, 40]
    assert held[0] == [40]
    assert all(5 < count < 35 for count in held[1])
    assert all(2 < count < 28 for count in held[2])


# Training


@pytest.mark.parametrize("weighting", ["fixed", "per-task"])
@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_the_loss_written_out(scenario: str, weighting: str) -> None:
    method = replay(scenario, more=f"per_class: 5, weighting: {weighting}, memory_share: 0.3")
    learn(method, [0, 1])
    task = method.benchmark.task(2)
    samples = task.train()
    method.begin(task)
    with method.view_together([task]) as network:
        method.start_fit([task], network)
        found = method.loss(network, samples.x[:16], samples.y[:16] + network.offsets[2]).detach()
        method.set_step(0)
        old_x, outputs = method.draw(16)
    backbone, heads = method.network.backbone, method.network.heads
    first = {"task": [0, 2, 4], "domain": [0, 0, 0], "class": [0, 2, 4]}[scenario]
    rows = [int(torch.nonzero((method.kept["memory.x"] == x).all(1))[0]) for x in old_x]
    with torch.no_grad():

        def one(x: torch.Tensor, y: int, of: int) -> torch.Tensor:
            name = f"task-00{of}" if scenario == "task" else "shared"
            label = y if scenario == "task" else y + first[of]
            return functional.cross_entropy(heads[name](backbone(x[None])), torch.tensor([label]))

        new = torch.stack([one(samples.x[i], int(samples.y[i]), 2) for i in range(16)]).mean()
        y, of = method.kept["memory.y"], method.kept["memory.task"]
        parts = [one(method.kept["memory.x"][r], int(y[r]), int(of[r])) for r in rows]
        old = torch.stack(parts).mean()
    assert len(parts) == 16
    assert outputs.tolist() == [int(y[r]) + first[int(of[r])] for r in rows]
    share = 0.3 if weighting == "fixed" else 2 / 3
    torch.testing.assert_close(found, (1 - share) * new + share * old)


def test_draws_depend_on_seed_task_and_step_alone() -> None:
    method = replay()
    learn(method, [0, 1])
    method.begin(method.benchmark.task(2))
    with method.view_together([]) as network:
        method.start_fit([], network)
    first = method.draw(16)
    assert not torch.equal(first[0], method.draw(16)[0])
    method.set_step(0)
    assert torch.equal(first[0], torch.cat([method.draw(5)[0], method.draw(11)[0]]))
    method.after_step(1, 9)
    second = method.draw(16)
    assert not torch.equal(first[0], second[0])
    saved = {name: tensor.clone() for name, tensor in method.state_dict().items()}
    method.after_step(2, 9)
    assert not torch.equal(second[0], method.draw(16)[0])
    method.load_state_dict(saved)
    assert torch.equal(second[0], method.draw(16)[0])


def test_earlier_heads_learn_on_and_the_first_task_is_plain() -> None:
    method, full = replay(), method_on("{method: full}")
    learn(method, [0])
    learn(full, [0])
    mine, others = method.network.state_dict(), full.network.state_dict()
    assert len(mine) == 6
    assert all(torch.equal(mine[name], others[name]) for name in mine)
    head = method.head(0)
    assert isinstance(head, nn.Linear)
    before = head.weight.detach().clone()
    learn(method, [1])
    assert not torch.equal(head.weight, before)


def test_costs_by_hand() -> None:
    method = replay()
    trunk, head = trunk_bytes(method), 4 * (16 * 2 + 2)
    for task_id in range(3):
        learn(method, [task_id])
        heads = (task_id + 1) * head
        # A sample: 32 inputs of 4 bytes, label and task of a byte each; 10 samples a task.
        assert method.stored_bytes() == trunk + heads + 10 * (task_id + 1) * (32 * 4 + 1 + 1)
        assert method.trained_parameters() == (trunk + heads) // 4
        assert method.total_parameters() == (trunk + heads) // 4


def test_a_reservoir_costs_its_keys_too() -> None:
    method = replay(more="memory: reservoir, size: 40")
    learn(method, [0])
    head = 4 * (16 * 2 + 2)
    assert method.stored_bytes() == trunk_bytes(method) + head + 40 * (32 * 4 + 1 + 1 + 4)


BYTES = """
name: bytes
benchmark: {{{benchmark}, dataset: {{name: npz, path: {path}}}}}
scenario: domain
model: {{name: mlp, hidden: [16]}}
train: {{epochs: 1, batch_size: 16}}
methods: {{replay: {{per_class: 3}}}}
"""
BENCHMARKS = {
    "split": ("name: split, tasks: 3", 1),
    "permuted": ("name: permuted, tasks: 3, permute_first: true", 1),
    # The first task is upright, the next one is interpolated, and no byte gives its pixels.
    "rotated": ("name: rotated, tasks: 3", 4),
}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """120 images of 6 x 6 pixels, a byte each, of six classes."""
    numbers = np.random.default_rng(0)
    y = np.repeat(np.arange(6), 20)
    x = numbers.integers(0, 128, (120, 6, 6), dtype=np.uint8)
    x += (20 * y).astype(np.uint8)[:, None, None]
    np.savez(tmp_path / "images.npz", x=x, y=y)
    return tmp_path / "images.npz"


@pytest.mark.parametrize("stream", ["false", "true"])
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_pixels_are_kept_as_bytes_and_come_back_bit_for_bit(
    benchmark: str, stream: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yaml, size = BENCHMARKS[benchmark]
    text = BYTES.format(benchmark=yaml, path=images)
    records = []
    for name, stored in {"bytes": as_bytes, "floats": lambda x: x}.items():
        monkeypatch.setattr("lora_cl.methods.replay.as_bytes", stored)
        records.append(
            run_one(lora_cl.parse_config(text, "t", [f"stream={stream}"]), tmp_path / name)
        )
    packed, plain = (lora_cl.load_run(record.folder) for record in records)
    mine, others = packed.kept["memory.x"], plain.kept["memory.x"]
    assert (mine.element_size(), others.element_size()) == (size, 4)
    assert torch.equal(pixels(mine), others)
    assert len(mine) == (18 if benchmark == "split" else 54)
    assert records[0].result["accuracy_matrix"] == records[1].result["accuracy_matrix"]
    weights = packed.network.state_dict()
    assert len(weights) == 4
    assert all(torch.equal(weights[k], v) for k, v in plain.network.state_dict().items())
    saved = [record.result["cost"]["stored_bytes"] for record in records]
    assert saved[1] - saved[0] == len(mine) * 36 * (4 - size)


def test_integers_that_hold_so_many() -> None:
    found = [integers_for(count) for count in (1, 256, 257, 32768, 32769)]
    assert found == [torch.uint8, torch.uint8, torch.int16, torch.int16, torch.int32]


def test_nothing_from_the_memory_is_full_in_one_head(tmp_path: Path) -> None:
    results = [
        run_one(experiment(yaml, "class"), tmp_path / str(number)).result
        for number, yaml in enumerate(("{method: replay, memory_share: 0.0}", "{method: full}"))
    ]
    assert results[0]["accuracy_matrix"] == results[1]["accuracy_matrix"]


def test_keeps_classes_apart_where_full_does_not(tmp_path: Path) -> None:
    """Class-incremental, where chance is 1/6 and full answers with the last task's classes."""
    held = accuracies("{method: replay, per_class: 20}", "class", tmp_path / "replay")
    free = accuracies("{method: full}", "class", tmp_path / "full")
    assert 0.5 < last_mean(held) <= 1.0
    assert 0.0 < last_mean(free) < last_mean(held) - 0.1


def test_refused_options() -> None:
    for more in ("memory: ring", "per_class: 0", "size: 0", "memory_share: 1.1", "gamma: 1"):
        with pytest.raises(ConfigError):
            experiment(options("replay", more=more))
