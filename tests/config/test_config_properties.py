"""Random and mutated configs: accepted, or refused in lines that name the file and the key."""

from __future__ import annotations

import json
import random
from datetime import timedelta
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lora_cl.config import config_schema, parse_config
from lora_cl.config.syntax import Loader, to_yaml
from lora_cl.errors import ConfigError

WHOLE = """# a config with everything
name: whole
benchmark:
  name: split
  dataset: {name: synthetic, classes: 6, shape: [1, 4, 4]}
  tasks: 3
  class_order: [0, 1, 2, 3, 4, 5]
scenario: class
model: {name: mlp, hidden: [40, 20], dropout: 0.1}
base: {pretrain: {dataset: digits, classes: [0, 1], epochs: 2}}
train: {epochs: 2, batch_size: 64, optimizer: sgd, lr: 1e-3, momentum: 0.9, clip_norm: 1.0}
methods:
  full:
  lora: {rank: 8, alpha: 16, targets: all-linear}
  lora-r2: {method: lora, rank: 2, targets: [last-1, "*"]}
  ewc: {adapter: {name: lora, rank: 3}}
seeds: [0, 1, 5]
threads: 2
checkpoint_seconds: 0.5
"""

ODD = "{}[]:&*!|>-#'\"\t\n0x,%@\0é\u202e"
RUNS = {"count": 0, "refused": 0}

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["lora", "split", "mnist", "npz", "..", "../x", "1e-3", "x" * 500, "a\nb"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)
WORDS = [
    *("name", "benchmark", "dataset", "tasks", "methods", "method", "model", "hidden", "base"),
    *("pretrain", "weights", "train", "lr", "epochs", "seeds", "scenario", "adapter", "rank"),
]
keyed = st.dictionaries(st.one_of(st.sampled_from(WORDS), st.text(max_size=6)), values, max_size=6)
quick = settings(
    max_examples=200,
    deadline=timedelta(seconds=2),
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)


def accept_or_refuse(text: str, *overrides: str) -> None:
    RUNS["count"] += 1
    try:
        experiment = parse_config(text, "c.yaml", overrides)
    except ConfigError as error:
        RUNS["refused"] += 1
        lines = str(error).split("\n")
        assert 1 <= len(lines) <= 21
        for line in lines:
            assert line.startswith(("c.yaml", "-o "))
            assert line.isprintable()
            assert len(line) < 1500
    else:
        text = to_yaml(experiment.config.model_dump(mode="json"))
        assert parse_config(text, "again").config == experiment.config


@quick
@given(keyed)
def test_random_mappings(value: dict[str, Any]) -> None:
    accept_or_refuse(yaml.safe_dump(value, allow_unicode=True))


@quick
@given(st.data())
def test_one_value_replaced(data: st.DataObject) -> None:
    """The whole config with a random value somewhere, or a key more, or one fewer."""
    whole = yaml.load(WHOLE, Loader)  # noqa: S506
    target = whole
    while True:
        keys = list(target) if isinstance(target, dict) else list(range(len(target)))
        key = data.draw(st.sampled_from(keys))
        inner = target[key]
        if isinstance(inner, (dict, list)) and inner and data.draw(st.booleans()):
            target = inner
            continue
        change = data.draw(st.sampled_from(["replace", "remove", "add"]))
        if change == "replace":
            target[key] = data.draw(values)
        elif change == "remove":
            del target[key]
        elif isinstance(target, dict):
            target[data.draw(st.text(max_size=8))] = data.draw(values)
        else:
            target.append(data.draw(values))
        break
    accept_or_refuse(yaml.safe_dump(whole, allow_unicode=True))


@quick
@given(st.randoms(use_true_random=False), st.integers(1, 6))
def test_mutated_text(dice: random.Random, mutations: int) -> None:
    text = WHOLE
    for _ in range(mutations):
        place, end = sorted(dice.randrange(len(text) + 1) for _ in range(2))
        kind = dice.choice(["cut", "swap", "insert", "double", "end"])
        if kind == "cut":
            text = text[:place] + text[min(end, place + 9) :]
        elif kind == "swap" and place + 1 < len(text):
            text = text[:place] + text[place + 1] + text[place] + text[place + 2 :]
        elif kind == "insert":
            text = (
                text[:place] + dice.choice(list("{}[]:&*!|>-#'\"\t\n0x,%@\0é\u202e")) + text[place:]
            )
        elif kind == "double":
            text = text[:end] + text[place:]
        else:
            text = text[: max(20, place)]
    accept_or_refuse(text)


@quick
@given(st.text(max_size=40), st.sampled_from(WORDS), values)
def test_random_overrides(key: str, word: str, value: Any) -> None:
    accept_or_refuse(WHOLE, key)
    accept_or_refuse(WHOLE, f"{word}.{key}={value}")
    accept_or_refuse(WHOLE, f"train.{word}={value!r}", f"methods.lora.{word}={value}")


@quick
@given(st.binary(max_size=200))
def test_random_bytes(content: bytes) -> None:
    accept_or_refuse(content.decode("latin-1"))


def test_how_many_there_were() -> None:
    """Runs last in this file: the properties above were all tried."""
    if RUNS["count"] == 0:
        pytest.skip("the properties were not run")
    assert RUNS["count"] >= 1000
    assert RUNS["refused"] >= 500
    print(f"{RUNS['count']} configs, {RUNS['refused']} refused")


@given(values)
@settings(max_examples=100, derandomize=True, database=None)
def test_what_is_written_is_read_back(value: Any) -> None:
    """Text that looks like a number, a date or a truth stays text."""
    plain = json.loads(json.dumps(value, default=str))
    again = yaml.load(to_yaml({"x": plain}), Loader)["x"]  # noqa: S506
    assert json.dumps(again) == json.dumps(plain)


@pytest.mark.parametrize("text", ["1e5", "1e-3", "017", "1:30", "2020-01-01", "0x1", "on", "-1e5"])
def test_labels_that_look_like_numbers(text: str) -> None:
    assert yaml.load(to_yaml({text: text}), Loader) == {text: text}  # noqa: S506


def test_the_schema_is_json_and_knows_every_method() -> None:
    schema = config_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert {"lora", "full", "frozen", "joint"} <= schema["properties"]["methods"][
        "properties"
    ].keys()
    assert "rank" in schema["$defs"]["lora_lora"]["properties"]
