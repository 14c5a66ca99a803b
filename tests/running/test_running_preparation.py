"""What is wrong is found before anything starts, by `validate` and `run` in the same words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from process_cases import ask
from safetensors.torch import save_file

from lora_cl.benchmarks import benchmark as benchmark_room
from lora_cl.config import parse_config
from lora_cl.data import memory
from lora_cl.errors import ConfigError, LoraClError
from lora_cl.models import build_network
from lora_cl.running.base import load_weights
from lora_cl.running.preparation import check, prepare

BASE = """name: t
benchmark: {benchmark}
scenario: task
model: {{hidden: [8]}}
methods: {{full: , ncm: {{method: frozen, classifier: ncm}}}}
"""


def arrays(path: Path, shape: tuple[int, ...], test_labels: list[int]) -> str:
    """A data set of the labels 40, 50, 60 and 70, whose test set holds these; as a config's."""
    random = np.random.default_rng(0)
    y = np.repeat([40, 50, 60, 70], 10)
    x, x_test = (random.normal(size=(len(part), *shape)) for part in (y, test_labels))
    np.savez(path, x=x, y=y, x_test=x_test, y_test=np.array(test_labels))
    return f"{{name: npz, path: {path}}}"


def refused(tmp_path: Path, text: str) -> str:
    """The line that both commands say of a config, after which nothing was started."""
    path = tmp_path / "c.yaml"
    path.write_text(text)
    validated = ask("validate", path)
    ran = ask("run", path, "--results", tmp_path / "r", "--jobs", "0")
    assert validated == ran
    code, out, err = validated
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert not (tmp_path / "r").exists()
    return err.removeprefix(f"error: {path}").strip()


@pytest.mark.parametrize(
    ("benchmark", "labels", "says"),
    [
        (
            "{name: split, tasks: 2, dataset: DATA}",
            [40, 50, 40],
            ":2: benchmark.dataset: task 1 (60, 70): npz has no test samples of 60 (class 2), "
            "70 (class 3)",
        ),
        (
            "{name: split, tasks: 2, dataset: DATA}",
            [40, 50, 60],
            ":2: benchmark.dataset: task 1 (60, 70): npz has no test samples of 70 (class 3)",
        ),
        (
            "{name: split, tasks: 2, class_order: [3, 1, 0, 2], dataset: DATA}",
            [40, 50, 60],
            ":2: benchmark.dataset: task 0 (70, 50): npz has no test samples of 70 (class 3)",
        ),
        (
            "{name: permuted, tasks: 3, dataset: DATA}",
            [40, 70],
            ":2: benchmark.dataset: task 0 (permutation 0): npz has no test samples of 50 "
            "(class 1), 60 (class 2)",
        ),
        (
            "{name: rotated, tasks: 3, dataset: DATA}",
            [40, 50, 70],
            ":2: benchmark.dataset: task 0 (0 degrees): npz has no test samples of 60 (class 2)",
        ),
        (
            "{name: sequence, size: 4, datasets: [digits, DATA]}",
            [50, 60, 70],
            ":2: benchmark.datasets.1: task 1 (npz): npz has no test samples of 40 (class 0)",
        ),
    ],
)
def test_a_class_without_test_samples_is_named_before_anything_starts(
    tmp_path: Path, benchmark: str, labels: list[int], says: str
) -> None:
    data = arrays(tmp_path / "a.npz", (1, 4, 4), labels)
    text = BASE.format(benchmark=benchmark.replace("DATA", data))
    assert refused(tmp_path, text) == says


def test_many_classes_without_samples_are_counted(tmp_path: Path) -> None:
    y = np.arange(20).repeat(2)
    x = np.zeros((40, 3))
    np.savez(tmp_path / "a.npz", x=x, y=y, x_test=x[:2], y_test=y[:2])
    benchmark = f"{{name: split, tasks: 1, dataset: {{name: npz, path: {tmp_path / 'a.npz'}}}}}"
    said = refused(tmp_path, BASE.format(benchmark=benchmark))
    assert said.endswith("npz has no test samples of 1, 2, 3, 4, 5 and 14 more")


def test_a_class_that_no_task_holds_needs_no_samples(tmp_path: Path) -> None:
    data = arrays(tmp_path / "a.npz", (6,), [40, 50, 60])
    benchmark = f"{{name: split, tasks: 1, class_order: [0, 2], dataset: {data}}}"
    assert check(parse_config(BASE.format(benchmark=benchmark), "c.yaml"), None) == []


def test_a_limit_may_leave_a_class_out(tmp_path: Path) -> None:
    """A draw at random is a fair one; such a run is done, and not refused."""
    path = tmp_path / "c.yaml"
    dataset = "{name: synthetic, classes: 4, features: 6}"
    limits = "max_train_samples: 1, max_test_samples: 1"
    benchmark = f"{{name: split, tasks: 2, {limits}, dataset: {dataset}}}"
    path.write_text(BASE.format(benchmark=benchmark))
    assert ask("validate", path)[0] == 0
    assert ask("run", path, "--results", tmp_path / "r", "--jobs", "0")[0] == 0


def test_labels_alone_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def copied(*_: Any) -> None:
        raise AssertionError("inputs were made")

    monkeypatch.setattr(benchmark_room, "samples_of", copied)
    benchmarks = [
        "{name: split, tasks: 5, dataset: digits}",
        "{name: permuted, tasks: 1000, dataset: digits}",
        "{name: rotated, tasks: 100, dataset: digits}",
        "{name: sequence, size: 1024, datasets: [digits, digits]}",
    ]
    for benchmark in benchmarks:
        text = BASE.format(benchmark=benchmark).replace("[8]", "[2]")
        assert check(parse_config(text, "c.yaml"), None) == []
    assert len(benchmarks) == 4


@pytest.mark.parametrize("name", ["split", "permuted", "rotated"])
@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        ("{name: npz, path: no.npz}", "no.npz: no such file"),
        ("{name: npz, path: .}", ".: is a directory; a .npz file is needed"),
        ("{name: folder, path: nope}", "nope: no such folder"),
        ("{name: npz, path: bad.npz}", "bad.npz: is not a .npz archive (or a truncated one); np."),
    ],
)
def test_data_that_is_not_there_is_refused_by_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, dataset: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    said = refused(tmp_path, BASE.format(benchmark=f"{{name: {name}, dataset: {dataset}}}"))
    assert said.startswith(f":2: benchmark.dataset: {says}")
    text = BASE.format(benchmark="{name: split, dataset: digits}")
    said = refused(tmp_path, f"{text}base: {{pretrain: {{dataset: {dataset}}}}}\n")
    assert said.startswith(f":6: base.pretrain.dataset: {says}")


# What is not here yet


def test_validate_says_what_it_could_not_look_at(tmp_path: Path) -> None:
    path, data = tmp_path / "c.yaml", tmp_path / "data"
    path.write_text(BASE.format(benchmark="{name: sequence, datasets: [mnist, kmnist, mnist]}"))
    notes = [f"{name} is not here yet: checked without it" for name in ("mnist", "kmnist")]
    expected = (0, f"{path}: valid, 2 runs ({'; '.join(notes)})\n", "")
    assert ask("validate", path, "--data-dir", data) == expected
    assert not data.exists()
    path.write_text(BASE.format(benchmark="{name: split, dataset: digits}"))
    assert ask("validate", path) == (0, f"{path}: valid, 2 runs\n", "")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"tasks: 5": "tasks: 3"}, "benchmark.tasks: 10 classes do not divide into 3 equal tasks"),
        (
            {"{hidden: [8]}": "{name: cnn, channels: [2, 2, 2, 2, 2, 2]}"},
            "model.channels: 6 blocks are too many for images of 28 x 28: at most 4",
        ),
        ({"full: ": "lora: {targets: nothing}"}, "methods.lora: targets"),
        ({"tasks: 5": "class_order: [0, 10]"}, "benchmark.class_order: [0, 10] names a class that"),
        ({"scenario": "base: {weights: no.safetensors}\nscenario"}, "base.weights: no.safetensors"),
        (
            {"scenario": "base: {pretrain: {dataset: cifar10}}\nscenario"},
            "base.pretrain.dataset: cifar10 has inputs of (3, 32, 32), the benchmark of (1, 28",
        ),
        (
            {"scenario": "base: {pretrain: {dataset: fashion-mnist, classes: [0, 10]}}\nscenario"},
            "pretrain.classes: fashion-mnist has no class 10, only 0..9: 0 is T-shirt/top, 1 is Tr",
        ),
    ],
)
def test_what_is_published_of_a_data_set_is_enough_to_check_a_config(
    tmp_path: Path, changes: dict[str, str], says: str
) -> None:
    text = BASE.format(benchmark="{name: split, tasks: 5, dataset: mnist}")
    assert len(check(parse_config(text, "c.yaml"), tmp_path)) == 1
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    with pytest.raises(ConfigError) as caught:
        check(parse_config(text, "c.yaml"), tmp_path)
    assert says in str(caught.value)


# Weights


def tensors(change: Any = lambda name, tensor: tensor) -> dict[str, torch.Tensor]:
    network = network_of("{hidden: [8]}", 64)
    state = network.backbone.state_dict()
    return {name: change(name, tensor.clone()) for name, tensor in state.items()}


def network_of(model: str, *shape: int) -> Any:
    text = BASE.format(benchmark="{name: split, dataset: digits}").replace("{hidden: [8]}", model)
    return build_network(parse_config(text, "").config.model, torch.Size(shape), seed=0)


def with_value(value: float) -> Any:
    def change(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name == "linear1.weight":
            tensor[3, 5] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (with_value(float("nan")), "linear1.weight holds a NaN or infinite value"),
        (with_value(float("-inf")), "linear1.weight holds a NaN or infinite value"),
        (lambda _, t: t.to(torch.int8), "linear1.weight has type int8; allowed: float32, float16,"),
        (lambda _, t: t.double(), "linear1.weight has type float64; allowed: float32, float16, bf"),
        (lambda _, t: t[..., 1:], "linear1.weight has shape (8, 63), needed is (8, 64)"),
    ],
)
def test_weights_that_would_be_changed_or_spoil_everything_are_refused(
    tmp_path: Path, change: Any, says: str
) -> None:
    path = tmp_path / "w.safetensors"
    save_file({name: t.contiguous() for name, t in tensors(change).items()}, path)
    text = BASE.format(benchmark="{name: split, dataset: digits}")
    said = refused(tmp_path, f"{text}base: {{weights: {path}}}\n")
    assert said.startswith(f":6: base.weights: {path}: does not hold this backbone: linear1.")
    assert says in said


def test_other_files_than_weights_are_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "folder").mkdir()
    save_file(tensors(), tmp_path / "whole")
    save_file({k: v for k, v in tensors().items() if "bias" in k}, tmp_path / "part")
    save_file({**tensors(), "more": torch.zeros(1)}, tmp_path / "more")
    text = BASE.format(benchmark="{name: split, dataset: digits}")
    cases = {
        "text": "is not a safetensors file (",
        "folder": "is a directory; a .safetensors file is needed",
        "no": "no such file",
        "x" * 300: "cannot be read: File name too long",
        "/dev/zero": "is no regular file",
        "part": "does not hold this backbone: linear1.weight is missing",
        "more": "does not hold this backbone: more has no place",
    }
    for name, says in cases.items():
        place = tmp_path / name
        said = refused(tmp_path, f"{text}base: {{weights: {place}}}\n")
        assert said.startswith(f":6: base.weights: {place}: {says}"), said
    assert len(cases) == 7
    config = parse_config(f"{text}base: {{weights: {tmp_path / 'whole'}}}\n", "c.yaml")
    assert check(config, None) == []


def test_a_shorter_type_is_loaded_as_it_is(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    tried = 0
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        stored = tensors(lambda _, t, dtype=dtype: t.to(dtype))
        save_file(stored, tmp_path / "w.safetensors")
        network = network_of("{hidden: [8]}", 64)
        load_weights(network, Path("~/w.safetensors"))
        for name, tensor in network.backbone.state_dict().items():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, stored[name].float())
        tried += 1
    assert tried == 3


def test_counters_among_weights_keep_their_type(tmp_path: Path) -> None:
    model = "{name: cnn, channels: [2]}"
    stored = network_of(model, 1, 8, 8).backbone.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in stored.items()}, tmp_path / "w")
    network = network_of(model, 1, 8, 8)
    load_weights(network, tmp_path / "w")
    assert network.backbone.state_dict()["norm1.num_batches_tracked"].dtype == torch.int64
    stored["norm1.num_batches_tracked"] = torch.zeros(())
    save_file(stored, tmp_path / "w")
    with pytest.raises(ConfigError, match=r"num_batches_tracked has type float32; allowed: int64"):
        load_weights(network, tmp_path / "w")


# Memory


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("{hidden: [8]}", "{hidden: [8, 65536, 8]}", "model"),
        ("full: ", "seq_lora: {rank: 65536}", "methods.seq_lora"),
    ],
)
def test_what_memory_cannot_hold_is_not_begun(
    monkeypatch: pytest.MonkeyPatch, old: str, new: str, key: str
) -> None:
    text = BASE.format(benchmark="{name: split, dataset: digits}")
    assert old in text
    experiment = parse_config(text.replace(old, new), "c.yaml")
    assert check(experiment, None) == []
    monkeypatch.setattr(memory, "memory_bytes", lambda: 1_000_000)
    assert check(parse_config(text, "c.yaml"), None) == []
    for command in (check, lambda one, root: prepare(one, root, print)):
        with pytest.raises(LoraClError) as caught:
            command(experiment, None)
        assert f": {key}: it would take " in str(caught.value)
        assert str(caught.value).endswith("of memory; here are 1.00 MB")
