"""Sequences of tasks: who is in which, with which labels."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lora_cl.benchmarks import benchmark as benchmark_room
from lora_cl.benchmarks.rotated import rotate
from lora_cl.benchmarks.sequence import resized
from lora_cl.config import parse_config
from lora_cl.data.streaming import Streamed, parts
from lora_cl.errors import ConfigError
from lora_cl.running.making import make_benchmark
from lora_cl.running.preparation import check

CPU = torch.device("cpu")


def benchmark_of(text: str, scenario: str = "task", seed: int = 0, stream: str | bool = "auto"):
    config = parse_config(
        f"name: t\nbenchmark: {text}\nscenario: {scenario}\nmethods: {{full: {{}}}}\n"
        f"stream: {str(stream).lower()}",
        "t.yaml",
    ).config
    return make_benchmark(config, seed, CPU, None)


def test_split_deals_every_class_once_and_labels_from_zero():
    benchmark = benchmark_of("{name: split, dataset: digits, tasks: 5}", "class")
    seen, samples = [], 0
    for index in range(benchmark.n_tasks):
        task = benchmark.task(index)
        train = task.train()
        assert train.x.dtype == torch.float32
        assert 0.0 <= float(train.x.min()) <= float(train.x.max()) <= 1.0
        assert train.y.unique().tolist() == [0, 1]
        assert task.first_class == 2 * index
        seen += task.name.split(", ")
        samples += len(train.y)
    assert seen == [str(digit) for digit in range(10)]
    assert samples == 1438


def test_split_shuffles_classes_by_seed():
    text = "{name: split, dataset: digits, tasks: 5, class_order: shuffled}"
    orders = [benchmark_of(text, seed=seed).class_order for seed in range(4)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert benchmark_of(text, seed=1).class_order == orders[1]


def test_split_takes_a_list_of_classes():
    benchmark = benchmark_of("{name: split, dataset: digits, tasks: 2, class_order: [7, 1, 3, 5]}")
    assert [benchmark.task(index).name for index in range(2)] == ["7, 1", "3, 5"]
    digits = benchmark.dataset()
    sevens = int((digits.y_test == 7).sum())
    assert int((benchmark.task(0).test().y == 0).sum()) == sevens


def test_permuted_moves_the_same_pixels_in_every_image():
    benchmark = benchmark_of("{name: permuted, dataset: digits, tasks: 1000}", "domain")
    plain, other = benchmark.task(0).train(), benchmark.task(999).train()
    assert torch.equal(plain.y, other.y)
    assert not torch.equal(plain.x, other.x)
    assert torch.equal(plain.x.flatten(1).sort(1).values, other.x.flatten(1).sort(1).values)
    assert torch.equal(benchmark.task(999).test().x, benchmark.task(999).test().x)
    first = benchmark_of("{name: permuted, dataset: digits, tasks: 3, permute_first: true}")
    assert not torch.equal(first.task(0).train().x, plain.x)


def test_a_limit_on_samples_is_a_draw_without_replacement():
    benchmark = benchmark_of(
        "{name: permuted, dataset: digits, tasks: 2, max_train_samples: 100, max_test_samples: 50}"
    )
    train, test = benchmark.task(1).train(), benchmark.task(1).test()
    assert (len(train.y), len(test.y)) == (100, 50)
    assert len(train.x.flatten(1).unique(dim=0)) > 95
    assert len(train.y.unique()) == 10


def test_rotation_by_right_angles_is_exact():
    image = torch.arange(16.0).view(1, 1, 4, 4)
    torch.testing.assert_close(rotate(image, 90.0), image.rot90(1, (2, 3)), atol=1e-4, rtol=0)
    torch.testing.assert_close(rotate(image, 180.0), image.rot90(2, (2, 3)), atol=1e-4, rtol=0)
    assert rotate(image, 0.0) is image
    benchmark = benchmark_of("{name: rotated, dataset: digits, tasks: 4, degrees: 180}")
    assert [benchmark.task(k).name for k in range(4)] == [f"{a} degrees" for a in (0, 45, 90, 135)]


def test_sequence_brings_data_sets_to_one_size():
    text = (
        "{name: sequence, size: 8, channels: 1, datasets: "
        "[digits, {name: synthetic, classes: 3, shape: [3, 4, 4]}]}"
    )
    benchmark = benchmark_of(text, "class")
    shapes = [tuple(benchmark.task(k).train().x.shape[1:]) for k in range(2)]
    assert shapes == [(1, 8, 8)] * 2
    assert [benchmark.task(k).first_class for k in range(2)] == [0, 10]
    colour = torch.rand(2, 3, 4, 4)
    assert torch.equal(resized(colour, 4, 1), colour.mean(1, keepdim=True))
    assert torch.equal(resized(colour[:, :1], 4, 3), colour[:, :1].repeat(1, 3, 1, 1))


@pytest.mark.parametrize(
    ("text", "scenario", "message"),
    [
        ("{name: split, dataset: digits, tasks: 11}", "task", "11 tasks are more than the 10"),
        ("{name: split, dataset: digits, tasks: 3}", "task", "allowed: 1, 2, 5, 10"),
        ("{name: split, dataset: digits, class_order: [1, 1]}", "task", "names a class twice"),
        ("{name: split, dataset: digits, class_order: [1, 10]}", "task", "not in 0..9"),
        (
            "{name: sequence, datasets: [digits, {name: synthetic, classes: 3, shape: [1, 8, 8]}]}",
            "domain",
            "the data sets have 10, 3 classes",
        ),
        (
            "{name: rotated, dataset: {name: synthetic, features: 4}}",
            "task",
            "rotation needs images",
        ),
    ],
)
def test_what_can_never_work_is_refused_by_file_line_and_key(text, scenario, message):
    experiment = parse_config(
        f"name: t\nscenario: {scenario}\nmethods: {{full: {{}}}}\nbenchmark: {text}", "t.yaml"
    )
    with pytest.raises(ConfigError) as caught:
        check(experiment, None)
    assert message in str(caught.value)
    assert str(caught.value).startswith(("t.yaml:4: benchmark", "t.yaml:2: scenario"))
    assert "\n" not in str(caught.value)


def test_your_own_arrays_are_a_benchmark(tmp_path: Path):
    rng = np.random.default_rng(0)
    path = tmp_path / "own.npz"
    y = np.repeat(np.arange(4), 25)
    np.savez(path, x=rng.normal(size=(100, 6)).astype(np.float32) + y[:, None], y=y)
    benchmark = benchmark_of(f"{{name: split, tasks: 2, dataset: {{name: npz, path: {path}}}}}")
    sizes = [len(benchmark.task(k).train().y) + len(benchmark.task(k).test().y) for k in range(2)]
    assert sizes == [50, 50]
    assert math.prod(benchmark.input_shape) == 6


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
@pytest.mark.parametrize(
    "text",
    [
        "{name: split, dataset: digits, tasks: 5}",
        "{name: split, dataset: digits, tasks: 2, max_train_samples: 30}",
        "{name: permuted, dataset: digits, tasks: 3}",
        "{name: rotated, dataset: digits, tasks: 3}",
        "{name: sequence, datasets: [digits, digits], size: 12}",
    ],
)
def test_streamed_samples_are_the_samples(text: str, scenario: str):
    whole, streamed = (benchmark_of(text, scenario, stream=stream) for stream in ("auto", True))
    compared = 0
    for index in range(whole.n_tasks):
        for part in ("train", "test"):
            want, got = (getattr(b.task(index), part)() for b in (whole, streamed))
            assert isinstance(want.x, torch.Tensor)
            assert isinstance(got.x, Streamed)
            assert torch.equal(got.y, want.y)
            assert len(got.x) == len(want.x) == len(want.y)
            assert torch.equal(torch.cat(list(parts(got.x, 7))), want.x)
            compared += 1
    assert compared == 2 * whole.n_tasks >= 4


def test_a_data_set_streams_by_itself_if_it_is_large(monkeypatch: pytest.MonkeyPatch):
    text = "{name: split, dataset: digits, tasks: 5}"
    size = 1438 * 64 * 4
    for limit, kind in ((size, torch.Tensor), (size - 1, Streamed)):
        monkeypatch.setattr(benchmark_room, "MAX_BYTES", limit)
        assert isinstance(benchmark_of(text).task(0).train().x, kind)
    assert isinstance(benchmark_of(text, stream=False).task(0).train().x, torch.Tensor)
