"""A finished run stands alone: it answers, by name, when its data set is gone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from process_cases import ask

import lora_cl
from lora_cl.errors import DataError, LoraClError, MethodError
from lora_cl.methods import Method
from lora_cl.methods.routing import BY_ADAPTED, BY_BASE
from lora_cl.records.folders import read_record
from lora_cl.testing.runs import run_done

CONFIG = """
name: alone
benchmark: {{name: split, tasks: 2, dataset: {{name: npz, path: '{data}'}}}}
scenario: {scenario}
model: {{name: mlp, hidden: [12]}}
train: {{epochs: 6, batch_size: 8, lr: 0.02}}
methods: {{{method}}}
{more}
"""
SEPARATION = 6.0


def inputs(seed: int, per_class: int = 16) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Four clusters in eight dimensions."""
    dice = np.random.default_rng(seed)
    y = np.repeat(np.arange(4), per_class)
    x = dice.normal(size=(len(y), 8)) + SEPARATION * np.eye(8)[y]
    return x.astype(np.float32), y * 10  # Classes are called 0, 10, 20, 30.


def done(place: Path, method: str, scenario: str = "task", more: str = "") -> Path:
    """The folder of a run whose data set is gone."""
    x, y = inputs(0)
    data = place / "mine.npz"
    np.savez(data, x=x, y=y)
    text = CONFIG.format(data=data, scenario=scenario, method=method, more=more)
    folder = run_done(text, place / "runs")
    data.unlink()
    return folder


CASES = [
    ("lora: {rank: 2}", "task"),
    ("dora: {rank: 2}", "task"),
    ("adalora: {rank: 3, target_rank: 2, every: 1}", "task"),
    ("qlora: {rank: 2}", "task"),
    ("independent: {}", "task"),
    ("packnet: {}", "task"),
    ("pnn: {}", "task"),
    ("full: {}", "domain"),
    ("ewc: {adapter: {name: lora, rank: 2}}", "task"),
    ("frozen: {classifier: ncm}", "class"),
    ("joint: {}", "class"),
    ("lora: {rank: 2, router: prototype}", "class"),
    ("independent: {router: prototype}", "class"),
    ("adalora: {rank: 3, target_rank: 2, every: 1, router: mahalanobis}", "class"),
    ("lora: {rank: 2, router: energy}", "class"),
    ("independent: {router: entropy, hidden: [6]}", "domain"),
]


@pytest.mark.parametrize(("method", "scenario"), CASES, ids=lambda value: str(value)[:40])
def test_it_answers_as_on_record_without_its_data(
    method: str, scenario: str, tmp_path: Path
) -> None:
    folder = done(tmp_path, method, scenario)
    restored = lora_cl.load_run(folder)
    result = read_record(folder).result
    x, y = inputs(1, per_class=8)
    right = 0
    for task, names in enumerate([("0", "10"), ("20", "30")]):
        rows = (y // 20) == task
        known = task if scenario != "class" and not result["routing"] else None
        labels, probabilities, tasks = restored.predict(x[rows], task=known)
        wanted = [str(label) for label in y[rows]]
        if scenario == "domain" and tasks is not None:  # The labels of the task that was found.
            wanted = [
                str(label % 20 + 20 * t) for label, t in zip(y[rows], tasks.tolist(), strict=True)
            ]
        right += sum(map(str.__eq__, labels, wanted))
        assert set(labels) <= {"0", "10", "20", "30"}
        if known is not None:
            assert set(labels) <= set(names)
        torch.testing.assert_close(probabilities.sum(1), torch.ones(16))
        assert probabilities.shape == (16, 4 if scenario == "class" and tasks is None else 2)
    assert right >= 24, right  # Of 32; a guess has 8, or 16 where the task is known.
    with pytest.raises(LoraClError, match=r"mine\.npz"):
        restored.benchmark.task(0).train()


def test_the_record_names_tasks_classes_and_what_goes_in(tmp_path: Path) -> None:
    record = read_record(done(tmp_path, "full: {}")).result
    assert record["tasks"] == [
        {"name": "0, 10", "classes": ["0", "10"]},
        {"name": "20, 30", "classes": ["20", "30"]},
    ]
    assert record["input"] == {"kind": "numbers", "shape": [8]}


def test_a_pretrained_base_and_one_from_a_file_are_in_the_run(tmp_path: Path) -> None:
    """Neither the data it was trained on nor the file is needed any more."""
    more = "base: {pretrain: {dataset: {name: synthetic, features: 8, classes: 3}, epochs: 1}}"
    for name in "ab":
        (tmp_path / name).mkdir()
    first = done(tmp_path / "a", "full: {}", more=more)
    weights = tmp_path / "b" / "w.safetensors"
    weights.write_bytes((first / "model.safetensors").read_bytes())
    second = done(tmp_path / "b", "lora: {rank: 2}", more=f"base: {{weights: '{weights}'}}")
    weights.unlink()
    for folder in (first, second):
        method = lora_cl.load_run(folder, data_dir=tmp_path / "nothing")
        assert len(method.predict(np.zeros((3, 8), np.float32), task=1).labels) == 3
    assert not (tmp_path / "nothing").exists()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return done(tmp_path_factory.mktemp("whole"), "lora: {rank: 2}")


@pytest.fixture(scope="module")
def method(whole: Path) -> Method:
    return lora_cl.load_run(whole)


def test_routers_of_logits_need_nothing_and_the_others_what_was_kept(method: Method) -> None:
    x, _ = inputs(1)
    for router in ("entropy", "energy"):
        tasks = method.predict(x, router=router).tasks
        assert tasks is not None
        assert set(tasks.tolist()) <= {0, 1}
    for router in (*BY_BASE, *BY_ADAPTED):
        with pytest.raises(MethodError, match=f"router {router} needs class means.* were not kept"):
            method.predict(x, router=router)
    with pytest.raises(MethodError, match="did you mean 'entropy'"):
        method.predict(x, router="entrpy")
    with pytest.raises(MethodError, match="not both"):
        method.predict(x, task=0, router="entropy")
    with pytest.raises(MethodError, match="say which task, 0 to 1, or which router"):
        method.predict(x)
    with pytest.raises(MethodError, match="oracle is the task given"):
        method.predict(x, router="oracle")
    with pytest.raises(MethodError, match="task 7 has no view"):
        method.predict(x, task=7)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((2, 9), np.float32), r"shape \(2, 9\); \(N, 8\) is needed"),
        (np.zeros(8, np.float32), r"shape \(8,\)"),
        (np.zeros((0, 8), np.float32), "is needed"),
        (np.full((1, 8), np.nan, np.float32), "NaN"),
        (np.zeros((1, 8), np.int64), "has type int64"),
        (7, "not int"),
        (["no.png"], "takes inputs of"),
        (["no.txt"], r"ending is none of \.npz"),
        ([], "nothing to answer"),
    ],
)
def test_what_is_no_input(given: Any, said: str, method: Method) -> None:
    with pytest.raises(DataError, match=said):
        method.predict(given, task=0)


def test_the_command_answers_for_arrays(whole: Path, tmp_path: Path) -> None:
    x, y = inputs(1, per_class=3)
    np.savez(tmp_path / "new.npz", x=x[:6])
    code, out, err = ask("predict", whole, tmp_path / "new.npz", "--task", "0")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "input,task,label,probability"
    assert [line.split(",")[:3] for line in lines[1:]] == [
        [f"{tmp_path / 'new.npz'}:{row}", "0", str(y[row])] for row in range(6)
    ]
    target = tmp_path / "answers.json"
    ask("predict", whole, tmp_path / "new.npz", "--task", "0", "--format", "json", "-o", target)
    found = json.loads(target.read_text("utf-8"))
    assert [one["label"] for one in found] == [str(label) for label in y[:6]]
    assert set(found[0]["probabilities"]) == {"0", "10"}
    assert found[0]["probability"] == max(found[0]["probabilities"].values()) > 0.5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["x.npz", "--task", "0"], "x.npz: no such file"),
        (["x.npz"], "x.npz: no such file"),
        (["x.npz", "--task", "0", "--format", "xml"], "--format xml: is not one of csv, json"),
        (["x.npz", "--task", "0", "--device", "gpu"], "device gpu"),
    ],
)
def test_wrong_requests_of_the_command(arguments: list[str], said: str, whole: Path) -> None:
    code, out, err = ask("predict", whole, *arguments)
    assert (code, out) == (2, "")
    assert said in err


def test_images_of_any_size_are_made_those_of_the_run(tmp_path: Path) -> None:
    """Four colours of 6 x 6 are learned; larger pictures of them are recognised."""
    colours = {"red": (220, 0, 0), "green": (0, 220, 0), "blue": (0, 0, 220), "white": (240,) * 3}
    dice = np.random.default_rng(0)
    for name, colour in colours.items():
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(15):
            noise = dice.integers(-15, 15, (6, 6, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    text = CONFIG.format(
        data="", scenario="task", method="lora: {rank: 4, targets: all-linear}", more=""
    )
    source = f"{{name: folder, path: '{tmp_path / 'images'}', size: 6}}"
    text = text.replace("{name: npz, path: ''}", source).replace("epochs: 6", "epochs: 20")
    folder = run_done(text, tmp_path / "runs")
    assert read_record(folder).result["input"] == {"kind": "image", "shape": [3, 6, 6]}
    (tmp_path / "images").rename(tmp_path / "gone")
    files = []
    for name, colour in colours.items():
        files.append(tmp_path / f"{name}.png")
        Image.new("RGB", (31, 17), colour).save(files[-1])
    found = lora_cl.predict(folder, files[:2], task=1)
    assert [one.input for one in found] == [str(file) for file in files[:2]]
    names = read_record(folder).result["tasks"]
    right = 0
    for task, said in enumerate(names):
        answers = lora_cl.predict(
            folder, [tmp_path / f"{n}.png" for n in said["classes"]], task=task
        )
        right += sum(one.label == name for one, name in zip(answers, said["classes"], strict=True))
    assert right == 4
    with pytest.raises(DataError, match=r"notes\.png: no such file"):
        lora_cl.predict(folder, [tmp_path / "notes.png"], task=0)
