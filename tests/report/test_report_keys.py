"""Configs by dotted key, and saying in which of them runs differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from report_cases import config

from lora_cl.benchmarks import BENCHMARKS
from lora_cl.config import parse_config
from lora_cl.config.model import BaseOptions, Config, PretrainOptions, TrainOptions
from lora_cl.data import DATASETS
from lora_cl.errors import ConfigError
from lora_cl.methods import METHODS
from lora_cl.models import BACKBONES
from lora_cl.options import OptionsBase
from lora_cl.report.keys import (
    CHANGES_NO_RESULT,
    Difference,
    makes_result,
    options_of,
    resolve,
    short_name,
)

YAML = """
name: m
benchmark: {name: sequence, datasets: [digits, {name: synthetic, classes: 4}]}
model: {hidden: [3, 4]}
methods:
  mine: {method: ewc, adapter: {name: lora, rank: 4}}
seeds: [7]
"""


def test_a_resolved_config_leaf_by_leaf() -> None:
    (run,) = parse_config(YAML, "c.yaml").runs({})
    options = options_of(run.resolved)
    expected = {
        "benchmark": "sequence",
        "benchmark.datasets.0": "digits",
        "benchmark.datasets.1": "synthetic",
        "benchmark.datasets.1.classes": 4,
        "scenario": "task",
        "model": "mlp",
        "model.hidden": [3, 4],
        "base.pretrain": None,
        "train.lr": 1e-3,
        "method": "ewc",
        "method.adapter": "lora",
        "method.adapter.rank": 4,
        "threads": 1,
    }
    assert {key: options[key] for key in expected} == expected
    # What names a run is no option of it.
    assert not {"name", "seeds", "methods", "mine"} & {
        part for k in options for part in k.split(".")
    }


def hashed_or_not(options: type[OptionsBase]) -> Iterator[tuple[str, bool]]:
    for name, field in options.model_fields.items():
        extra = field.json_schema_extra
        yield name, not (isinstance(extra, dict) and extra.get("hashed") is False)


def test_what_changes_no_result_is_what_the_options_say() -> None:
    """The report reads records without the parts that made them, so it has a list of its own."""
    registries = (METHODS, BENCHMARKS, DATASETS, BACKBONES)
    parts: list[Any] = [part.Options for registry in registries for part in registry.values()]
    fields = {
        field
        for part in (*parts, Config, BaseOptions, TrainOptions, PretrainOptions)
        for field in hashed_or_not(part)
    }
    assert {name for name, hashed in fields if not hashed} == set(CHANGES_NO_RESULT)
    assert not {name for name, hashed in fields if hashed} & set(CHANGES_NO_RESULT)
    assert len(fields) > 40
    assert makes_result({"a.path": 1, "path": 1, "stream": 1, "a.b": 2}) == {"a.b": 2}


def told(*configs: dict[str, Any], contents: Any = None, prefix: str = "") -> list[str]:
    options = [options_of(one) for one in configs]
    among = {key for one in options for key in one}
    difference = Difference(options, contents or [{}] * len(options), among, prefix)
    return [", ".join(texts) for texts in difference.told]


def test_options_that_differ_are_told_the_method_s_first() -> None:
    plain = config("lora")
    assert told(plain, plain) == ["", ""]
    assert told(plain, config("lora", rank=4)) == ["rank=8", "rank=4"]
    other = config("lora", rank=4, train={"epochs": 1, "lr": 0.01})
    assert told(plain, other) == ["rank=8, lr=0.1", "rank=4, lr=0.01"]
    # Seeds, names, and what changes no result are no difference.
    assert told(plain, config("l", 3, method="lora", name="x", checkpoint_seconds=1.0)) == ["", ""]


def test_defaults_that_one_does_not_have_are_told() -> None:
    """A record of an older version, whose method had no such option yet."""
    assert told(config("lora"), config("lora", init="kaiming")) == ["init=-", "init=kaiming"]


def test_another_part_brings_other_options_and_only_it_is_told() -> None:
    lora = config("x", method="lora")
    pnn = config("x", method="pnn", rank=8, lateral=2)
    assert told(lora, pnn) == ["method=lora", "method=pnn"]
    # An option that those who have it set otherwise is told of them.
    wide = config("x", method="pnn", rank=8, lateral=3)
    assert told(lora, pnn, wide) == [
        "method=lora",
        "method=pnn, lateral=2",
        "method=pnn, lateral=3",
    ]
    narrow = config("x", model={"hidden": [4, 4], "name": "mlp"})
    deep = config("x", model={"name": "cnn", "channels": [8]})
    assert told(narrow, deep) == ["model=mlp", "model=cnn"]
    adapted = config("ewc", adapter={"name": "lora", "rank": 4})
    plain = config("ewc", adapter=None)
    assert told(plain, adapted) == ["adapter=-", "adapter=lora"]


def test_names_are_as_short_as_is_clear() -> None:
    keys = ["method.rank", "method.adapter.rank", "train.epochs", "base.pretrain.epochs", "a.seed"]
    names = ["rank", "adapter.rank", "epochs", "pretrain.epochs", "a.seed"]
    assert [short_name(key, keys) for key in keys] == names
    assert short_name("base.pretrain.epochs", keys[3:]) == "epochs"
    assert short_name("a.rank", ["a.rank", "b.rank"]) == "a.rank"


def test_content_that_differs_is_told_by_the_beginning_of_its_checksum() -> None:
    plain = config("lora")
    contents = [
        {"code": "ab12cd34" * 8, "torch": "2.15.0", "device": "cpu"},
        {"code": "ff00ff00" * 8, "torch": "2.15.0", "device": "cuda"},
    ]
    expected = ["code=ab12cd34, device=cpu", "code=ff00ff00, device=cuda"]
    assert told(plain, plain, contents=contents) == expected
    contents = [{"benchmark.dataset": "sha256:" + digit * 64} for digit in "12"]
    assert told(plain, plain, contents=contents) == ["data=11111111", "data=22222222"]
    contents = [{"benchmark.datasets.1": "sha256:" + digit * 64} for digit in "12"]
    assert told(plain, plain, contents=contents) == ["data.1=11111111", "data.1=22222222"]


def test_data_of_another_name_are_told_by_the_name_and_a_path_where_it_leads_elsewhere() -> None:
    def on(dataset: dict[str, Any]) -> dict[str, Any]:
        return config("lora", benchmark={"name": "split", "dataset": dataset})

    one, other = ({"benchmark.dataset": "sha256:" + digit * 64} for digit in "12")
    named = [on({"name": "mnist"}), on({"name": "digits"})]
    assert told(*named, contents=[one, other]) == ["dataset=mnist", "dataset=digits"]
    files = [on({"name": "npz", "path": path}) for path in ("/a.npz", "/b.npz")]
    assert told(*files, contents=[one, other]) == ["path=/a.npz", "path=/b.npz"]
    assert told(*files, contents=[one, one]) == ["", ""]  # The same file elsewhere.
    assert told(files[0], files[0], contents=[one, other]) == ["data=11111111", "data=22222222"]
    far = on({"name": "npz", "path": f"/{'deep/' * 20}c.npz"})
    assert told(files[0], far, contents=[one, other])[1].endswith("/deep/c.npz")


KEYS = ["method", "method.rank", "method.adapter.rank", "train.lr", "a.x", "b.x", "model.hidden"]
KEYS += ["benchmark.dataset", "content.torch", "content.method.code", "content.code"]
KEYS += ["content.benchmark.dataset"]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("train.lr", "train.lr"),
        ("config.train.lr", "train.lr"),
        ("lr", "train.lr"),
        ("rank", "method.rank"),
        ("adapter.rank", "method.adapter.rank"),
        ("method", "method"),
        ("method.name", "method"),
        ("dataset.name", "benchmark.dataset"),
        ("benchmark.dataset.name", "benchmark.dataset"),
        ("torch", "content.torch"),
        ("code", "content.code"),
        ("data", "content.benchmark.dataset"),
    ],
)
def test_a_key_is_found_by_its_end(name: str, key: str) -> None:
    assert resolve("--where", name, KEYS) == key


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x", "--sort x: could be a.x or b.x; say which"),
        ("rnak", "--sort rnak: nothing here is called so (did you mean 'rank'?)"),
        ("train.lrr", "(did you mean 'train.lr'?)"),
        ("", "--sort : nothing here is called so"),
        ("a\x1b[2J\nb" * 99, "nothing here is called so"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(name: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve("--sort", name, KEYS)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()
