"""What the Python interface takes, and what it refuses before anything is started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import lora_cl
from lora_cl.errors import ConfigError, ResultsError

CONFIG = """
name: tiny
benchmark: {name: split, dataset: {name: synthetic, classes: 4}, tasks: 2}
model: {hidden: [8]}
methods: {lora: {rank: 2}}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "c.yaml").write_text(CONFIG)
    return tmp_path


def test_paths_are_text_or_paths_everywhere(place: Path) -> None:
    for kind in (str, Path):
        experiment = lora_cl.load_config(kind(place / "c.yaml"), ["train.batch_size=20"])
        assert experiment.config.train.batch_size == 20
        (record,) = lora_cl.run(
            [experiment],
            results=kind(place / "r"),
            jobs=0,
            data_dir=kind(place / "data"),
            progress=False,
        )
        assert record.status == "done"
        method = lora_cl.load_run(kind(record.folder), data_dir=kind(place / "data"))
        with method.view(1) as network:
            assert network(torch.zeros(1, 32)).shape == (1, 2)
        assert len(lora_cl.load_results(kind(place / "r"))) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"jobs": -1}, "jobs: -1 is not allowed: it is a whole number from 0"),
        ({"jobs": 1.5}, "jobs: 1.5 is not allowed"),
        ({"jobs": "2"}, "jobs: '2' is not allowed"),
        ({"jobs": True}, "jobs: True is not allowed"),
        ({"device": None}, "device: None is not text"),
        ({"device": "gpu"}, "device gpu"),
        ({"results": None}, "results: None is neither text nor a path"),
        ({"results": ""}, "results: is empty; a path is needed"),
        ({"results": "a\0b"}, r"results: 'a\x00b' holds a NUL character, which no path can hold"),
        ({"data_dir": b"x"}, "data_dir: b'x' is neither text nor a path"),
    ],
)
def test_wrong_arguments_of_run(arguments: dict[str, Any], said: str, place: Path) -> None:
    experiment = lora_cl.load_config(place / "c.yaml")
    given = {"results": place / "r", "progress": False, **arguments}
    with pytest.raises(ConfigError) as raised:
        lora_cl.run(experiment, **given)
    assert said in str(raised.value)
    assert not (place / "r").exists()


@pytest.mark.parametrize("wrong", ["c.yaml", Path("c.yaml"), None, 3, ["c.yaml"], [None]])
def test_what_is_no_experiment(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"experiments: .* load_config makes one"):
        lora_cl.run(wrong)


def test_wrong_arguments_of_the_others(place: Path) -> None:
    calls: list[Any] = [
        lambda: lora_cl.load_config(3),  # type: ignore[arg-type]
        lambda: lora_cl.load_config(place / "c.yaml", "train.lr=1"),
        lambda: lora_cl.load_results([place]),  # type: ignore[arg-type]
        lambda: lora_cl.load_run(None),  # type: ignore[arg-type]
        lambda: lora_cl.load_run("x", device="gpu"),
        lambda: lora_cl.load_run("x", data_dir=7),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(ConfigError):
            call()
    with pytest.raises(ResultsError):
        lora_cl.load_run(str(place / "nowhere"))


def test_a_cache_of_bases_that_cannot_be_is_a_line_and_no_failure(place: Path) -> None:
    """A file stands where its folder would be."""
    text = CONFIG + "base: {pretrain: {dataset: digits}}\n"
    text = text.replace("dataset: {name: synthetic, classes: 4}", "dataset: digits")
    experiment = lora_cl.parse_config(text, "test.yaml", ["benchmark.max_train_samples=30"])
    matrices = []
    for data, lines in (("whole", 0), ("broken", 1)):
        (place / data).mkdir()
        if lines:
            (place / data / "bases").write_text("")
        said: list[str] = []
        (record,) = lora_cl.run(
            experiment,
            results=place / f"r-{data}",
            jobs=0,
            data_dir=place / data,
            progress=False,
            say=said.append,
        )
        assert record.status == "done", record.result["error"]
        matrices.append(record.result["accuracy_matrix"])
        told = [line for line in said if "pretrains a base" in line]
        assert len(told) == lines
        assert all(str(place / data / "bases") in line for line in told)
    assert matrices[0] == matrices[1]
