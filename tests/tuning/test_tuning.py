"""The tuner: equally many trials, chosen on samples held out, and never by a test sample."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import lora_cl
from lora_cl import api
from lora_cl.cli.commands import app
from lora_cl.config import Experiment, load_config, parse_config
from lora_cl.config.study import RangeOptions, TuneOptions
from lora_cl.errors import ConfigError
from lora_cl.records.folders import load_records
from lora_cl.records.metrics import average_accuracy
from lora_cl.running.making import make_benchmark
from lora_cl.tuning import Tuning, tuned_yaml
from lora_cl.tuning.search import OptunaSearch, RandomSearch, Trial, value_at
from lora_cl.tuning.tuner import Tried, pruned

TUNED = """
name: t
benchmark: {{name: split, dataset: {data}, tasks: 3}}
scenario: class
model: {{name: mlp, hidden: [16]}}
train: {{epochs: 2, batch_size: 16, lr: 1e-4}}
methods:
  full: {{}}
  mine: {{method: replay, per_class: 2}}
seeds: 2
tune:
  trials: 3
  space:
    train.lr: {{log: [1e-4, 1e-1]}}
    methods.mine.per_class: [5, 10]
"""
SYNTHETIC = "{name: synthetic, classes: 6, features: 8, separation: 5.0}"


def experiment(data: str = SYNTHETIC, more: str = "", *overrides: str) -> Experiment:
    return parse_config(TUNED.format(data=data) + more, "c.yaml", overrides)


def tuned(one: Experiment, folder: Path, **named: Any) -> Tuning:
    return api.tune(one, results=folder, jobs=0, progress=False, **named)


def choices(tuning: Tuning) -> dict[str, list[Any]]:
    return {
        label: [(dict(one.trial.values), one.scores) for one in tried]
        for label, tried in tuning.tried.items()
    }


def arrays(path: Path, poison: bool) -> str:
    """Six clusters; with ``poison`` the test inputs are noise and the test labels shuffled."""
    numbers = np.random.default_rng(0)

    def part(n: int) -> tuple[Any, Any]:
        y = np.arange(n) % 6
        return (4 * np.eye(8)[y] + numbers.normal(size=(n, 8))).astype(np.float32), y

    (x, y), (x_test, y_test) = part(180), part(60)
    if poison:
        x_test, y_test = 1e6 * x_test[::-1], numbers.permutation(y_test)
    np.savez(path, x=x, y=y, x_test=x_test, y_test=y_test)
    return f"{{name: npz, path: '{path}'}}"


def test_no_test_sample_changes_what_is_chosen(tmp_path: Path) -> None:
    found = []
    for poison in (False, True):
        data = arrays(tmp_path / f"{poison}.npz", poison)
        one = experiment(data, "", "train.epochs=20")
        found.append(choices(tuned(one, tmp_path / str(poison))))
    assert found[0] == found[1]
    assert [len(trials) for trials in found[0].values()] == [3, 3]
    scores = [score for trials in found[0].values() for _, by in trials for score in by.values()]
    assert len(set(scores)) > 2  # They tell the trials apart.


def test_a_trial_has_the_first_tasks_and_no_test_sample(tmp_path: Path) -> None:
    tuning = tuned(experiment(), tmp_path)
    records = load_records([tmp_path])
    assert len(records) == 6
    for record in records:
        assert record.experiment == "t-tuning"
        assert record.seed == 2  # Not one of the config's.
        assert len(record.result["accuracy_matrix"]) == 2
        assert record.result["validation_matrix"] is None
        assert record.result["config"]["tuning"] == {"tasks": 2}
    config = load_config(records[0].folder / "config.yaml").config
    benchmark = make_benchmark(config, 2, torch.device("cpu"), None)
    assert benchmark.n_tasks == 2
    assert len(benchmark.dataset().x_test) == len(benchmark.dataset().y_test) == 0
    train, held = benchmark.task(0).train(), benchmark.task(0).test()
    rows = {tuple(row) for row in train.x.tolist()}  # type: ignore[union-attr]
    assert not any(tuple(row) in rows for row in held.x.tolist())  # type: ignore[union-attr]
    assert len(held.y) == round(0.1 * len(train.y) / 0.9)
    best = tuning.best("full")
    assert best is not None
    assert best.mean == max(one.mean or 0 for one in tuning.tried["full"])


def test_what_was_tried_is_not_tried_again(tmp_path: Path) -> None:
    told: list[str] = []
    first = tuned(experiment(), tmp_path, say=told.append)
    again = tuned(experiment(), tmp_path, say=told.append)
    assert told == ["6 runs: 6 to do", "6 runs: 6 reused"]
    assert first.trace() == again.trace()
    more = tuned(experiment("", "", "tune.trials=4", f"benchmark.dataset={SYNTHETIC}"), tmp_path)
    assert [len(tried) for tried in more.tried.values()] == [4, 4]
    assert choices(more)["full"][:3] == choices(first)["full"]


def test_the_command_writes_a_config_that_says_what_was_tuned(tmp_path: Path) -> None:
    source, out = tmp_path / "c.yaml", tmp_path / "out.yaml"
    source.write_text(TUNED.format(data=SYNTHETIC))
    where = ["--results", str(tmp_path / "r"), "--jobs", "0", "--output", str(out)]
    done = CliRunner().invoke(app, ["tune", str(source), *where])
    assert done.exit_code == 0, done.output
    lines = [line for line in done.stdout.splitlines() if "trials" in line]
    assert [line.split()[0] for line in lines if "validation" in line] == ["full", "mine"]
    trace = out.with_suffix(".trace.json").read_bytes()
    whole = json.loads(trace)
    assert whole["tune"]["trials"] == 3
    digest = f"sha256:{hashlib.sha256(trace).hexdigest()}"
    config = load_config(out).config
    assert config.name == "t-tuned"
    assert config.seeds == [0, 1]
    assert config.validation == 0
    for label, keys in {"full": ["train.lr"], "mine": ["train.lr", "per_class"]}.items():
        part = whole["methods"][label]
        values = part["trials"][part["chosen"]]["values"]
        tuned = config.methods[label].tuned
        assert (tuned.keys, tuned.trials, tuned.trace) == (keys, 3, digest)
        if values:
            assert config.methods[label].train.lr == values["train.lr"]
        if label == "mine" and values:
            assert config.methods[label].per_class == values["per_class"]
    records = lora_cl.run(load_config(out), results=tmp_path / "r", jobs=0, progress=False)
    assert [record.status for record in records] == ["done"] * 4
    assert records[0].result["config"]["methods"]["full"]["tuned"]["trace"] == digest


def test_every_method_gets_the_same_rates_and_the_config_as_it_is() -> None:
    options = TuneOptions(
        trials=5, space={"train.lr": RangeOptions(log=(1e-4, 1)), "methods.a.rank": [1, 2, 3]}
    )
    drawn = {}
    for label in ("a", "b"):
        (batch,) = RandomSearch(label, options).batches()
        assert [trial.index for trial in batch] == [0, 1, 2, 3, 4]
        assert batch[0] == Trial(label, 0, {})
        drawn[label] = batch[1:]
    assert [t.values["train.lr"] for t in drawn["a"]] == [t.values["train.lr"] for t in drawn["b"]]
    assert len({trial.values["train.lr"] for trial in drawn["a"]}) == 4
    assert {"rank"} == drawn["a"][0].values.keys() - drawn["b"][0].values.keys()


def test_values_of_a_range() -> None:
    log, uniform = RangeOptions(log=(1e-4, 1.0)), RangeOptions(uniform=(2.0, 4.0))
    assert [value_at(log, u) for u in (0.0, 0.25, 0.5)] == pytest.approx([1e-4, 1e-3, 1e-2])
    assert value_at(uniform, 0.5) == 3.0
    whole = RangeOptions(integer=(1, 8))
    numbers = random.Random(0)
    found = [value_at(whole, numbers.random()) for _ in range(2000)]
    assert set(found) == set(range(1, 9))
    assert found.count(1) > 2 * found.count(8)
    assert [value_at(["a", "b"], u) for u in (0.0, 0.49, 0.5, 0.99)] == ["a", "a", "b", "b"]


def tried(label: str, *means: float | None) -> list[Tried]:
    return [Tried(Trial(label, i, {"x": i}), {0: mean}) for i, mean in enumerate(means)]


def test_the_worse_half_goes_no_further() -> None:
    ones, others = tried("a", 0.5, None, 0.9, 0.7), tried("b", 0.1, 0.2, 0.3)
    kept = pruned([*ones, *others])
    assert [(one.trial.label, one.trial.index) for one in kept] == [
        ("a", 2),
        ("a", 3),
        ("b", 1),
        ("b", 2),
    ]
    assert [one.pruned for one in ones] == [True, True, False, False]


def test_the_best_is_whole_and_of_equal_ones_the_first() -> None:
    trials = tried("a", 0.5, 0.8, 0.8, 0.9, None)
    trials[3].pruned = True
    best = Tuning(TuneOptions(), {"a": trials, "b": tried("b", None)})
    found = best.best("a")
    assert found is not None
    assert found.trial.index == 1
    assert best.best("b") is None


def test_sums_in_another_order_decide_nothing() -> None:
    less, more = (average_accuracy([[1.0, 0.0], [a / 40, b / 40]]) for a, b in ((0, 12), (1, 11)))
    assert less is not None
    assert more is not None
    assert less < more
    trials = tried("a", less, more, more, 0.1)
    best = Tuning(TuneOptions(), {"a": trials}).best("a")
    assert best is not None
    assert best.trial.index == 0
    pruned(trials)
    assert [one.pruned for one in trials] == [False, False, False, True]


def test_pruning_between_seeds(tmp_path: Path) -> None:
    overrides = (f"benchmark.dataset={SYNTHETIC}", "tune.seeds=[7, 8]")
    found = tuned(experiment("", "", *overrides), tmp_path)
    for trials in found.tried.values():
        lengths = [len(one.scores) for one in trials]
        assert len(lengths) == 3
        assert [one.pruned for one in trials] == [length == 1 for length in lengths]
        assert 2 in lengths


def test_a_trial_that_diverges_is_not_chosen(tmp_path: Path) -> None:
    found = tuned(
        experiment("", "", f"benchmark.dataset={SYNTHETIC}", "tune.space={train.lr: [1e30]}"),
        tmp_path,
        only=["full"],
    )
    assert list(found.tried) == ["full"]
    assert [one.mean is None for one in found.tried["full"]] == [False, True, True]
    best = found.best("full")
    assert best is not None
    assert best.trial.index == 0


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("tune.space={train.lrr: [1]}", "tune.space.train.lrr: 1: full has no such key"),
        ("tune.space={methods.mine.per_class: [0]}", "0: Input should be greater than or equal"),
        ("tune.space={train.momentum: [0.9]}", "0.9: momentum goes with optimizer sgd, not adam"),
        ("tune.search=grid", "tune.space.train.lr: a range: of a grid every key has a list"),
        (
            "tune={search: grid, space: {train.lr: [" + ", ".join(["0.1"] * 101) + "], "
            "train.weight_decay: [" + ", ".join(["0.1"] * 100) + "]}}",
            "10,100: full has more combinations than 10,000",
        ),
    ],
)
def test_a_value_that_no_trial_can_have_is_told_before_anything_starts(
    override: str, told: str, tmp_path: Path
) -> None:
    one = experiment("", "", f"benchmark.dataset={SYNTHETIC}", override)
    with pytest.raises(ConfigError) as caught:
        tuned(one, tmp_path)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert load_records([tmp_path]) == []


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ("{model.hidden: [[1], [2]]}", "is not to be tuned: it is no key of train or of a method"),
        ("{methods.mini.per_class: [1]}", "no label is 'mini' (did you mean 'mine'?); there are"),
        ("{train.lr: {log: [0, 1]}}", "0.0 has no logarithm; the bounds should be above 0"),
        ("{train.lr: {log: [2, 1]}}", "the first bound is not below the second: 2.0, 1.0"),
        ("{train.lr: {log: [1, 2], uniform: [1, 2]}}", "give one of uniform, log, integer"),
        ("{}", "it should have at least 1 item"),
    ],
)
def test_a_space_that_is_none(space: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        experiment("", "", f"benchmark.dataset={SYNTHETIC}", f"tune.space={space}")
    assert told in str(caught.value)


def test_a_trial_needs_samples_held_out() -> None:
    with pytest.raises(ConfigError, match="tuning: a trial is measured on samples held out; give"):
        experiment("", "", f"benchmark.dataset={SYNTHETIC}", "tuning={tasks: 1}")


def test_a_grid_has_every_combination_once_and_the_config_as_it_is(tmp_path: Path) -> None:
    space = (
        "{train.lr: [1e-4, 0.03], methods.mine.train.lr: [0.01], methods.mine.per_class: [2, 4]}"
    )
    one = experiment(
        "",
        "",
        f"benchmark.dataset={SYNTHETIC}",
        f"tune.space={space}",
        "tune.search=grid",
        "train.epochs=1",
    )
    told: list[str] = []
    found = tuned(one, tmp_path, say=told.append)
    values = {k: [dict(t.trial.values) for t in tried] for k, tried in found.tried.items()}
    assert values["full"] == [{}, {"train.lr": 1e-4}, {"train.lr": 0.03}]
    assert values["mine"] == [
        {},
        {"train.lr": 0.01, "per_class": 2},
        {"train.lr": 0.01, "per_class": 4},
    ]
    # The rate of the config is one of the grid: the same run, done once and scored twice.
    assert told == ["5 runs: 5 to do"]
    first, second, _ = found.tried["full"]
    assert first.runs == second.runs
    assert first.scores == second.scores
    assert first.mean is not None
    text = tuned_yaml(one.config, found, "0", "")
    assert "every point of a grid for each method on the first 2 tasks" in text


def test_what_trains_nothing_has_nothing_to_tune(tmp_path: Path) -> None:
    means = "methods.means={method: frozen, classifier: ncm}"
    one = experiment("", "", f"benchmark.dataset={SYNTHETIC}", means, "train.epochs=1")
    found = tuned(one, tmp_path)
    assert list(found.tried) == ["full", "mine"]
    written = parse_config(tuned_yaml(one.config, found, "0", "x"), "t.yaml").config
    told = {label: options.tuned is not None for label, options in written.methods.items()}
    assert told == {"full": True, "mine": True, "means": False}
    assert written.methods["means"] == one.config.methods["means"]


def test_what_trains_nothing_is_tuned_by_what_is_of_it_alone(tmp_path: Path) -> None:
    projected = "methods.projected={method: frozen, classifier: {name: ranpac, width: 4}}"
    space = "tune.space={train.lr: [1e-4], methods.projected.classifier.width: [4, 64]}"
    one = experiment("", "", f"benchmark.dataset={SYNTHETIC}", projected, space, "tune.search=grid")
    found = tuned(one, tmp_path, only=["projected"])
    (tried,) = found.tried.values()
    assert [one.trial.values.get("classifier.width") for one in tried] == [None, 4, 64]
    best = found.best("projected")
    assert best is not None
    assert best.trial.values["classifier.width"] == 64


def test_a_list_that_gives_a_value_twice_is_no_run_twice(tmp_path: Path) -> None:
    overrides = (f"benchmark.dataset={SYNTHETIC}", "tune.space={train.lr: [1e-4]}")
    told: list[str] = []
    found = tuned(experiment("", "", *overrides), tmp_path, say=told.append)
    assert told == ["2 runs: 2 to do"]
    assert [len(tried) for tried in found.tried.values()] == [3, 3]
    assert all(t.mean is not None for tried in found.tried.values() for t in tried)


def test_optuna_proposes_near_what_was_good() -> None:
    options = TuneOptions(
        trials=33, search="tpe", space={"methods.a.x": RangeOptions(uniform=(0.0, 1.0))}
    )

    def searched() -> list[float]:
        search, values = OptunaSearch("a", options), []
        for batch in search.batches():
            values += [trial.values.get("x", 0.0) for trial in batch]
            search.hear({t.index: -abs(t.values["x"] - 0.3) for t in batch if t.values})
        return values

    found = searched()
    assert found == searched()
    assert len(found) == 33
    late = found[-12:]
    assert sum(abs(value - 0.3) for value in late) / 12 < 0.15


def test_optuna_through_the_whole_search(tmp_path: Path) -> None:
    overrides: Sequence[str] = (f"benchmark.dataset={SYNTHETIC}", "tune.search=tpe")
    found = tuned(experiment("", "", *overrides), tmp_path, only=["mine"])
    assert [one.trial.index for one in found.tried["mine"]] == [0, 1, 2]
    assert {one.trial.values.get("per_class") for one in found.tried["mine"][1:]} <= {5, 10}
