"""`load_run` answers as the run did, or says in a line which file does not let it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lora_cl import load_run
from lora_cl.errors import ResultsError
from lora_cl.records.results import write_result
from lora_cl.running.checkpoints import load_tensors, save_tensors
from lora_cl.running.runner import Where, run_one
from lora_cl.testing.runs import one_run, run_done

MODEL, ADAPTER = "model.safetensors", "adapters/task-001/adapter_model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = one_run("lora: {rank: 2}", "task", "train.epochs=1")
    place = tmp_path_factory.mktemp("whole")
    assert run is not None
    assert run_one(run, Where(place)).status == "done"
    return place / run.folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    place = tmp_path / whole.name
    shutil.copytree(whole, place)
    return place


def record_of(folder: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / "result.json").read_bytes())
    del record["checksum"]
    return record


def unnamed(folder: Path) -> None:
    """As in a record of an older version: any file of the run will do."""
    record = record_of(folder)
    del record["files"]
    write_result(folder, record)


def change(path: Path, tensors: Callable[[str, torch.Tensor], torch.Tensor]) -> None:
    found, meta = load_tensors(path)
    save_tensors(path, {name: tensors(name, tensor) for name, tensor in found.items()}, meta)


def test_it_takes_text_and_answers(whole: Path) -> None:
    method = load_run(str(whole))
    with torch.no_grad(), method.view(1) as network:
        assert network(torch.zeros(2, 12)).shape == (2, 2)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("file", [MODEL, ADAPTER])
@pytest.mark.parametrize(
    "dtype", [torch.int32, torch.int64, torch.bfloat16, torch.float16, torch.float64]
)
def test_tensors_of_another_type_are_refused(
    dtype: torch.dtype, file: str, named: bool, folder: Path
) -> None:
    change(folder / file, lambda name, tensor: tensor.to(dtype))
    if not named:
        unnamed(folder)
    kind = str(dtype).removeprefix("torch.")
    words = "is not the file that the run wrote" if named else f"is {kind} "
    with pytest.raises(ResultsError, match=f"{file}: .*{words}"):
        load_run(folder)


@pytest.mark.parametrize("file", [MODEL, ADAPTER])
def test_tensors_of_another_shape_are_refused(file: str, folder: Path) -> None:
    change(folder / file, lambda name, tensor: torch.cat([tensor, tensor]))
    unnamed(folder)
    with pytest.raises(ResultsError, match=f"{file}: "):
        load_run(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hash", None),
        ("hash", 7),
        ("config", None),
        ("config", {}),
        ("config", []),
        ("config.seeds", []),
        ("config.methods", {}),
        ("tasks", None),
        ("tasks", []),
        ("tasks", [{"name": "a"}] * 3),
        ("tasks", [{"name": "a", "classes": ["x"]}] * 3),
        ("input", None),
        ("input", {}),
        ("input.shape", [13]),
        ("input.shape", ["x"]),
        ("config.model.hidden", [11]),
        ("config.methods.lora.rank", 3),
        ("files", {"x": "y"}),
        ("status", "unknown\x1b[31m"),
        ("status", {}),
    ],
)
def test_a_record_under_a_right_checksum_may_hold_anything(
    key: str, value: object, folder: Path
) -> None:
    unnamed(folder)
    record = record_of(folder)
    *path, last = key.split(".")
    target = record
    for part in path:
        target = target[part]
    target[last] = value
    write_result(folder, record)
    with pytest.raises(ResultsError) as refused:
        load_run(folder)
    assert str(folder) in str(refused.value)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    "meta",
    [
        {"sealed": None},
        {"sealed": 3},
        {"sealed": ["x"]},
        {"sealed": [0, 1, 7]},
        {"tasks": None},
        {"tasks": 4},
        {"tasks": "3"},
        {"run": "x"},
    ],
)
def test_a_model_under_a_right_checksum_may_say_anything(
    meta: dict[str, object], folder: Path
) -> None:
    unnamed(folder)
    tensors, before = load_tensors(folder / MODEL)
    save_tensors(folder / MODEL, tensors, before | meta)
    with pytest.raises(ResultsError) as refused:
        load_run(folder)
    assert str(folder) in str(refused.value)


@pytest.mark.parametrize("file", [MODEL, ADAPTER])
def test_a_tensor_is_missing(file: str, folder: Path) -> None:
    unnamed(folder)
    tensors, meta = load_tensors(folder / file)
    for name in tensors:
        save_tensors(folder / file, {k: v for k, v in tensors.items() if k != name}, meta)
        with pytest.raises(ResultsError) as refused:
            load_run(folder)
        assert str(folder) in str(refused.value)
    assert len(tensors) >= 4


def test_other_data_than_it_was_made_with_is_refused(tmp_path: Path) -> None:
    """Else its answers would be counted on samples that are not those of its record."""
    dice = np.random.default_rng(0)
    arrays = {"x": dice.random((40, 6), dtype=np.float32), "y": np.arange(40) % 4}
    np.savez(tmp_path / "mine.npz", **arrays)
    text = (
        f"name: own\nbenchmark: {{name: split, tasks: 2, "
        f"dataset: {{name: npz, path: '{tmp_path / 'mine.npz'}'}}}}\nmethods: {{full: {{}}}}\n"
    )
    folder = run_done(text, tmp_path / "r")
    load_run(folder)
    arrays["x"][0, 0] += 1
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(ResultsError) as caught:
        load_run(folder).benchmark.task(0)
    assert str(caught.value).startswith(
        "benchmark.dataset: is not what the run was prepared with (sha256:"
    )
    assert str(caught.value).endswith("it was changed since")


def test_a_folder_that_is_not_there_is_told_as_that(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="nowhere: does not exist; give the folder of a finis"):
        load_run(tmp_path / "nowhere")
