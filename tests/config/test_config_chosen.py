"""`tuned` as a value: the number that a shipped config says was chosen, and from which trials."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_cl.config import parse_config
from lora_cl.config.chosen import tuned_configs
from lora_cl.errors import ConfigError

SETTING = """benchmark: {name: split, dataset: {name: synthetic, classes: 6, features: 8}, tasks: 3}
scenario: class
"""
TUNED = f"""name: tiny-tuned
{SETTING}
train: {{lr: 0.004}}
methods:
  full:
    train: {{lr: 0.02}}
    tuned: {{keys: [train.lr], trials: 4, trace: 'sha256:aa'}}
  ewc:
    strength: 300.0
    train: {{lr: 0.03}}
    tuned: {{keys: [train.lr, strength], trials: 4, trace: 'sha256:aa'}}
  si:
    tuned: {{keys: [train.lr, c], trials: 4, trace: 'sha256:aa'}}
  frozen: {{}}
"""


@pytest.fixture(autouse=True)
def _shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "tuned").mkdir()
    (tmp_path / "tuned" / "tiny_class.yaml").write_text(TUNED)
    monkeypatch.setattr("lora_cl.shipped.folder", lambda: tmp_path)
    tuned_configs.cache_clear()
    yield
    tuned_configs.cache_clear()


def parsed(text: str, *overrides: str):
    return parse_config(f"name: t\n{SETTING}{text}", "c.yaml", overrides)


def test_a_shared_rate_is_each_methods_own() -> None:
    text = "train: {lr: tuned, epochs: 2}\nmethods: {full: , ewc: {}, slow: {method: ewc}}\n"
    config = parsed(text).config
    rates = {label: one.train.given() for label, one in config.methods.items()}
    assert rates == {"full": {"lr": 0.02}, "ewc": {"lr": 0.03}, "slow": {"lr": 0.03}}
    assert config.train.epochs == 2
    assert config.methods["full"].tuned.model_dump() == {
        "keys": ["train.lr"],
        "trials": 4,
        "trace": "sha256:aa",
    }
    assert config.methods["ewc"].strength == 1e5
    (run,) = [run for run in parsed(text).runs({}) if run.label == "full"]
    assert run.resolved["train"]["lr"] == 0.02


def test_a_method_with_a_rate_of_its_own_keeps_it() -> None:
    text = "train: {lr: tuned}\nmethods: {full: {train: {lr: 0.5}}, frozen: {train: {lr: 0.1}}}\n"
    config = parsed(text).config
    assert [one.train.given()["lr"] for one in config.methods.values()] == [0.5, 0.1]
    assert [one.tuned for one in config.methods.values()] == [None, None]


def test_keys_of_one_method() -> None:
    one = parsed("methods: {full: {}, ewc: {strength: tuned, train: {lr: tuned}}}\n").config
    assert (one.methods["ewc"].strength, one.methods["ewc"].train.given()) == (300.0, {"lr": 0.03})
    assert sorted(one.methods["ewc"].tuned.keys) == ["strength", "train.lr"]
    assert one.methods["full"].tuned is None
    assert parsed("methods: {ewc: {strength: 300.0}}\n").config.methods["ewc"].tuned is None


def test_what_was_best_as_it_was_has_the_rate_that_all_share() -> None:
    one = parsed("train: {lr: tuned}\nmethods: {si: {c: tuned}}\n").config.methods["si"]
    assert one.train.given() == {"lr": 0.004}
    assert one.c == 10.0
    assert one.tuned is not None


def test_it_can_be_swept_and_set_from_the_command_line() -> None:
    swept = parsed("methods: {full: {}}\nsweep: {methods.full.train.lr: [tuned, 0.5]}\n")
    rates = [point.config.methods["full"].train.given()["lr"] for point in swept.points]
    assert rates == [0.02, 0.5]
    assert parsed("methods: {full: }\n", "train.lr=tuned").config.methods["full"].tuned is not None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "train: {lr: tuned}\nmethods: {full: {}, lora: {}}\n",
            "c.yaml:4: train.lr: no train.lr was chosen for lora",
        ),
        (
            "methods: {ewc: {strength: tuned}, full: {train: {weight_decay: tuned}}}\n",
            "c.yaml:4: methods.full.train.weight_decay: no train.weight_decay was chosen for full"
            "; chosen: train.lr",
        ),
        (
            "model: {hidden: [7]}\ntrain: {lr: tuned}\nmethods: {full: {}}\n",
            "c.yaml:5: train.lr: nothing is tuned for this benchmark, scenario and model; there is "
            "tiny_class",
        ),
        ("method: {name: full, train: {lr: tuned}}\n", "c.yaml:4: method.train.lr: 'tuned' is not"),
        ("train: {lr: tuned}\nmethod: full\n", "c.yaml:4: train.lr: `tuned` is taken by label"),
        (
            "train: {lr: tuned}\nmethods: {full: {}}\nseeds: 0\n",
            "c.yaml:6: seeds: 0 is not allowed",
        ),
    ],
)
def test_where_nothing_is_shipped_it_is_refused_in_a_line(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parsed(text)
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)
