"""The tuned configs that are shipped, against their traces and the configs they are of."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from lora_cl.config import load_config
from lora_cl.config.chosen import MADE_ALIKE, trained_methods
from lora_cl.shipped import TUNED, shipped

FILES = shipped(TUNED)


def trace_of(path: Path) -> Path:
    return path.with_suffix(".trace.json")


def test_there_are_some() -> None:
    split = {"split_mnist", "split_mnist_domain", "split_mnist_class"}
    permuted = {"permuted_mnist_task", "permuted_mnist", "permuted_mnist_class"}
    assert split | permuted <= FILES.keys()
    lite0 = {"split_fashion_lite0", "split_fashion_lite0_class"}
    assert {"wordnet", "wordnet_class"} | lite0 <= FILES.keys()


@pytest.mark.parametrize("name", FILES)
def test_each_says_of_which_trials_it_is(name: str) -> None:
    path = FILES[name]
    trace = trace_of(path).read_bytes()
    tried = json.loads(trace)["methods"]
    config = load_config(path).config
    tuned = {label for label, options in config.methods.items() if options.tuned is not None}
    assert tuned == tried.keys()
    assert set(trained_methods(config)) <= tuned
    assert len(tuned) >= 4
    for label in tuned:
        options, trials = config.methods[label], tried[label]["trials"]
        told = options.tuned
        assert told.trace == f"sha256:{hashlib.sha256(trace).hexdigest()}"
        assert told.trials == len(trials)
        chosen = trials[tried[label]["chosen"]]
        whole = [trial["validation_accuracy"] for trial in trials if not trial["pruned"]]
        assert chosen["validation_accuracy"] == max(score for score in whole if score is not None)
        for key, value in chosen["values"].items():
            found = options.train.given() if key.startswith("train.") else options.model_dump()
            assert found[key.removeprefix("train.")] == value


@pytest.mark.parametrize("name", FILES)
def test_tuned_in_the_config_it_is_of_stands_for_its_values(name: str) -> None:
    source = FILES[name].parents[1] / FILES[name].name
    tuned = load_config(FILES[name]).config
    own_rates = [
        f"methods.{label}.train.lr=tuned"
        for label, options in load_config(source).config.methods.items()
        if "lr" in options.train.given()
    ]
    config = load_config(source, ["train.lr=tuned", *own_rates]).config
    assert [getattr(config, part) for part in MADE_ALIKE] == [
        getattr(tuned, part) for part in MADE_ALIKE
    ]
    assert list(config.methods) == list(tuned.methods)
    for label, options in config.methods.items():
        if label not in trained_methods(config):
            assert "lr" not in options.train.given()
            continue
        own = tuned.methods[label].train.given()
        assert options.train.given()["lr"] == own.get("lr", tuned.train.lr)
