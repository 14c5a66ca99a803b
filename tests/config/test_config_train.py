"""`train:` of one method over the shared one: single keys, and the run that comes of it."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from lora_cl.config import RunConfig, config_schema, parse_config
from lora_cl.config.runs import of_one_method
from lora_cl.errors import ConfigError
from lora_cl.methods import METHODS
from lora_cl.report.keys import options_of

GOOD = """name: t
benchmark: {name: split, dataset: {name: synthetic, classes: 6}, tasks: 3}
base: {pretrain: {dataset: {name: synthetic, classes: 4, seed: 1}}}
train: {epochs: 3, lr: 0.002, clip_norm: 1.0}
methods:
  lora: {rank: 2, train: {lr: 0.01}}
  full:
"""
SGD = GOOD.replace("clip_norm: 1.0", "optimizer: sgd, momentum: 0.5")


def runs(text: str, *overrides: str) -> dict[str, RunConfig]:
    return {run.label: run for run in parse_config(text, "c.yaml", overrides).runs({})}


def train_of(own: str) -> dict[str, Any]:
    """What is not as the options have it by default, in a run of a method that says ``own``."""
    run = runs(GOOD.replace("{lr: 0.01}", own))["lora"]
    usual = parse_config("name: d\nbenchmark: {name: split, dataset: digits}\nmethod: full", "d")
    defaults = usual.config.train.model_dump()
    return {k: v for k, v in run.resolved["train"].items() if v != defaults[k]}


@pytest.mark.parametrize(
    ("own", "train"),
    [
        ("{}", {"epochs": 3, "lr": 0.002, "clip_norm": 1.0}),
        ("{lr: 0.01}", {"epochs": 3, "lr": 0.01, "clip_norm": 1.0}),
        ("{epochs: 2}", {"epochs": 2, "lr": 0.002, "clip_norm": 1.0}),
        ("{iterations: 7}", {"epochs": None, "iterations": 7, "lr": 0.002, "clip_norm": 1.0}),
        ("{iterations: null}", {"epochs": 3, "lr": 0.002, "clip_norm": 1.0}),
        ("{epochs: null, iterations: 7}", {"epochs": None, "iterations": 7, "lr": 0.002}),
        ("{clip_norm: null}", {"epochs": 3, "lr": 0.002}),
        ("{head_lr: 0.1, batch_size: 8}", {"epochs": 3, "head_lr": 0.1, "batch_size": 8}),
    ],
)
def test_single_keys_are_overridden(own: str, train: dict[str, Any]) -> None:
    found = train_of(own)
    assert found == {**found, **train}
    assert (found.get("clip_norm") is None) == ("clip_norm: null" in own)


def test_epochs_replace_shared_iterations() -> None:
    text = GOOD.replace("epochs: 3", "iterations: 9").replace("{lr: 0.01}", "{epochs: 2}")
    found = {k: run.resolved["train"] for k, run in runs(text).items()}
    assert (found["lora"]["epochs"], found["lora"]["iterations"]) == (2, None)
    assert (found["full"]["epochs"], found["full"]["iterations"]) == (None, 9)


def test_it_is_the_method_s_alone() -> None:
    found = runs(GOOD)
    alone = runs(GOOD.replace(", train: {lr: 0.01}", ""))
    assert found["full"] == alone["full"]
    assert found["lora"].run_hash != alone["lora"].run_hash
    assert found["lora"].config_hash != alone["lora"].config_hash


def test_the_same_training_is_the_same_run_wherever_it_is_said() -> None:
    plain = GOOD.replace("base:", "#")
    own = runs(plain)["lora"]
    shared = runs(plain.replace(", train: {lr: 0.01}", "").replace("0.002", "0.01"))["lora"]
    assert own == shared
    # With a pretrained base, which the shared rate makes, only if that is the same too.
    text = GOOD.replace(", train: {lr: 0.01}", "").replace("0.002", "0.01")
    assert runs(GOOD)["lora"] != runs(text)["lora"]
    assert runs(GOOD)["lora"] == runs(text, "base.pretrain.train.lr=0.002")["lora"]


def test_pretraining_is_that_of_all_methods() -> None:
    for text in (GOOD, GOOD.replace("{lr: 0.01}", "{clip_norm: null, head_lr: 1.0}"), SGD):
        config = parse_config(text, "c.yaml").config
        wanted = config.pretraining()
        assert wanted.lr == 0.002
        for label in config.methods:
            assert of_one_method(config, label).pretraining() == wanted
            assert runs(text)[label].parse().pretraining() == wanted
    lora, full = (run.resolved["base"]["pretrain"]["train"] for run in runs(GOOD).values())
    assert (lora, full) == ({"lr": 0.002}, {})
    own = parse_config(GOOD, "c.yaml", ["base.pretrain.train={lr: 0.5}"]).config
    assert own.pretraining().lr == 0.5
    assert own.pretraining().clip_norm == 1.0


def test_a_run_of_one_method_is_that_run() -> None:
    for text in (GOOD, SGD, SGD.replace("{lr: 0.01}", "{optimizer: adam, momentum: 0}")):
        found = runs(text)
        assert len(found) == 2
        for label, run in found.items():
            (again,) = parse_config(run.to_yaml(), "run.yaml").runs({})
            assert (again.run_hash, again.resolved) == (run.run_hash, run.resolved), label


def test_its_columns_are_those_of_the_shared_one() -> None:
    lora, full = (options_of(run.resolved) for run in runs(GOOD).values())
    assert (lora["train.lr"], full["train.lr"]) == (0.01, 0.002)
    assert not [key for key in lora if key.startswith("method.train")]


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ("{lr: -1}", ["c.yaml:6: methods.lora.train.lr: -1 is not allowed", "greater than 0"]),
        ("{lrr: 1}", ["c.yaml:6: methods.lora.train.lrr: unknown key (did you mean 'lr'?)"]),
        ("{lr: null}", ["methods.lora.train.lr: None is not allowed", "valid number"]),
        ("{optimizer: adm}", ["methods.lora.train.optimizer: 'adm'", "did you mean 'adam'?"]),
        ("{momentum: 0.9}", ["c.yaml:6: methods.lora.train.momentum", "sgd, not adam"]),
        ("{epochs: 1, iterations: 2}", ["c.yaml:6: methods.lora.train.iterations", "not both"]),
        ("{head_lr: 0}", ["methods.lora.train.head_lr: 0 is not allowed", "greater than 0"]),
        ("null", ["c.yaml:6: methods.lora.train: None is not allowed", "mapping of keys"]),
    ],
)
def test_what_is_wrong_is_refused_at_its_key(own: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(GOOD.replace("{lr: 0.01}", own), "c.yaml")
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "overrides", "begin"),
    [
        (SGD.replace("lr: 0.01", "optimizer: adam"), [], "c.yaml:6: methods.lora.train.optimizer"),
        (SGD, ["methods.full.train.optimizer=adam"], "-o methods.full.train.optimizer"),
        (SGD, ["base.pretrain.train={optimizer: adam}"], "-o base.pretrain.train.optimizer"),
        (
            "name: t\nbenchmark: {name: split, dataset: digits}\n"
            "train: {optimizer: sgd, momentum: 0.5}\n"
            "method:\n  name: lora\n  train: {optimizer: adam}",
            [],
            "c.yaml:6: method.train.optimizer",
        ),
    ],
)
def test_what_does_not_go_with_the_shared_one_is_refused(
    text: str, overrides: list[str], begin: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "c.yaml", overrides)
    assert str(caught.value) == (
        f"{begin}: momentum goes with optimizer sgd, not adam, and train.momentum is 0.5; "
        "give momentum: 0 beside it"
    )


def test_the_schema_knows_it_for_every_method() -> None:
    definitions = config_schema()["$defs"]
    own = definitions["OwnTrain"]["properties"]
    assert own.keys() == definitions["TrainOptions"]["properties"].keys()
    assert not any("default" in option for option in own.values())
    found = [one["properties"]["train"] for one in definitions.values() if _is_method(one)]
    assert len(found) == len(METHODS)
    assert all(one["$ref"] == "#/$defs/OwnTrain" for one in found)
    assert not any("train" in method.Options.model_fields for method in METHODS.values())


def test_the_schema_knows_values_that_are_chosen() -> None:
    schema = jsonschema.Draft202012Validator(config_schema())
    base = {"name": "t", "benchmark": {"name": "split", "dataset": "mnist", "tasks": 5}}
    lora = {"method": "lora", "rank": 8}

    def accepts(**more: Any) -> bool:
        return bool(schema.is_valid({**base, "methods": {"lora": lora}, **more}))

    assert accepts(train={"lr": "tuned", "optimizer": "tuned"})
    assert accepts(methods={"lora": {**lora, "rank": "tuned", "train": {"lr": "tuned"}}})
    adapted = {"method": "ewc", "strength": "tuned", "adapter": {"name": "lora", "rank": "tuned"}}
    assert accepts(methods={"ewc-lora": adapted})
    assert not accepts(train={"lr": "chosen"})
    assert not accepts(train="tuned")
    assert not accepts(methods={"lora": {**lora, "train": "tuned"}})
    assert not accepts(methods={"lora": {"method": "tuned"}})
    assert not accepts(methods={"lora": {**lora, "tuned": "tuned"}})
    assert not accepts(seeds="tuned")


def _is_method(definition: Any) -> bool:
    return "method" in definition.get("properties", {})
