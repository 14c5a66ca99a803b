"""Every bad config is refused in one line that names file, line, key, value and what is allowed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lora_cl.config import load_config, parse_config
from lora_cl.config.study import TuneOptions
from lora_cl.errors import ConfigError, DataError, LoraClError
from lora_cl.running.preparation import check, prepare

DATA = "{name: synthetic, classes: 6}"
GOOD = """name: t
benchmark: {name: split, dataset: {name: synthetic, classes: 6}, tasks: 3}
methods:
  lora: {rank: 2}
"""


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "c.yaml", overrides)
    return str(caught.value)


def test_the_good_one_is_good() -> None:
    config = parse_config(GOOD, "c.yaml").config
    assert config.methods["lora"].rank == 2
    assert config.train.epochs == 1
    assert config.seeds == [0]


@pytest.mark.parametrize(
    ("added", "words"),
    [
        ("trian: {}", ["c.yaml:5: trian: unknown key (did you mean 'train'?)", "benchmark, scen"]),
        ("train: {epoch: 3}", ["c.yaml:5: train.epoch: unknown", "'epochs'", "batch_size"]),
        ("train:\n  lr: fast", ["c.yaml:6: train.lr: 'fast' is not allowed", "valid number"]),
        ("train: {lr: -1}", ["c.yaml:5: train.lr: -1 is not allowed", "greater than 0"]),
        ("train: {lr: .nan}", ["train.lr: nan is not allowed", "finite"]),
        ("train: {lr: 1e999}", ["train.lr: inf is not allowed", "finite"]),
        ("compile: true", ["c.yaml:5: compile: true is refused", "8 to 16 s", "bench.md"]),
        ("train: {optimizer: adm}", ["'adm'", "did you mean 'adam'?", "adam, adamw, sgd"]),
        ("train: {epochs: 1, iterations: 2}", ["c.yaml:5: train.iterations", "not both"]),
        ("train: {epochs: 1:30}", ["train.epochs: '1:30'", "valid integer"]),
        ("train: {momentum: 0.9}", ["c.yaml:5: train.momentum", "sgd, not adam"]),
        ("train:", ["c.yaml:5: train: None", "mapping of keys"]),
        ("scenario: clas", ["c.yaml:5: scenario: 'clas'", "'class'", "task, domain, class"]),
        (
            "model: mpl",
            ["c.yaml:5: model: nothing here is called 'mpl'", "'mlp'", "allowed: cnn, "],
        ),
        ("model: {hidden: [0]}", ["c.yaml:5: model.hidden.0: 0", "greater than or equal to 1"]),
        ("threads: 0", ["c.yaml:5: threads: 0", "greater than or equal to 1"]),
        ("checkpoint_seconds: -1", ["c.yaml:5: checkpoint_seconds: -1", "equal to 0"]),
        ("seeds: 0", ["c.yaml:5: seeds: 0", "from 1 to 10000, or a list"]),
        ("seeds: []", ["c.yaml:5: seeds: []", "at least 1 item"]),
        ("seeds: [3, 3]", ["c.yaml:5: seeds: [3, 3] holds a seed twice"]),
        ("seeds: [-1]", ["c.yaml:5: seeds.0: -1", "equal to 0"]),
        ("seeds: true", ["c.yaml:5: seeds: True"]),
        ("seeds: [99999999999999999999]", ["seeds.0", "less than 2147483648"]),
        ("base: {pretrain: {dataset: digits}, weights: x}", ["c.yaml:5: base.weights", "not both"]),
        ("name: again", ["c.yaml:5: name: the key is given twice (first in line 1)"]),
        ("  lora: {}", ["c.yaml:5: methods.lora: the key is given twice (first in line 4)"]),
        ("  LORA: {method: lora}", ["c.yaml:3: methods: the labels 'lora' and 'LORA'"]),
        ("  lorra: {}", ["c.yaml:5: methods.lorra: nothing here is called 'lorra'", "'lora'"]),
        ("  x: {method: lorra}", ["c.yaml:5: methods.x: nothing here is called 'lorra'"]),
        ("  full: [1]", ["c.yaml:5: methods.full: [1]", "mapping"]),
        ("  3: {method: lora}", ["c.yaml:5: methods.3: YAML reads 3 as a number", "quotes: '3'"]),
        ("  off: {method: lora}", ["c.yaml:5: methods.off: YAML reads off as false", "'off'"]),
        ("  Yes: {method: lora}", ["c.yaml:5: methods.Yes: YAML reads Yes as true", "'Yes'"]),
        ("  ~: {method: lora}", ["c.yaml:5: methods.~: YAML reads ~ as nothing", "'~'"]),
        ("  1e5: {method: lora}", ["c.yaml:5: methods.1e5: YAML reads 1e5 as a number"]),
        ("null: 1", ["c.yaml:5: null: YAML reads null as nothing; put it in quotes: 'null'"]),
        ("base: {weights: off}", ["c.yaml:5: base.weights: off is", "a path; YAML reads off as f"]),
        ("scenario: off", ["c.yaml:5: scenario: off is not allowed; allowed: task, domain"]),
        ("train: {batch_size: 9223372036854775808}", ["train.batch_size", "at most 2147483647"]),
        ("train: {epochs: 2147483648}", ["c.yaml:5: train.epochs", "at most 2147483647"]),
        ("base: {weights: ~nosuchuser/x}", ["c.yaml:5: base.weights: ~nosuchuser/x", "no user"]),
        ('base: {weights: "a\\0b"}', ["c.yaml:5: base.weights: 'a", "NUL character"]),
        ('base: {weights: "\\ud800"}', ["c.yaml:5: base.weights", "that no path can hold"]),
        ("base: {weights: ''}", ["c.yaml:5: base.weights: is empty; a path is needed"]),
        (
            "base: {pretrain: {dataset: digits, classes: [3, 3]}}",
            ["c.yaml:5: base.pretrain.classes: [3, 3] names a class twice"],
        ),
        ("  ../x: {method: lora}", ["c.yaml:5: methods.../x: '../x' is not a name"]),
        ("  ..: {method: lora}", ["c.yaml:5: ", "'..' is not a name"]),
        ("  a/b: {method: lora}", ["'a/b' is not a name"]),
        ("  /etc: {method: lora}", ["'/etc' is not a name"]),
        ("  'a\\b': {method: lora}", ["is not a name"]),
        ('  "a\\nb": {method: lora}', ["'a b' is not a name"]),
        ('  "a\\n": {method: lora}', ["is not a name"]),
        ("  '': {method: lora}", ["'' is not a name"]),
        (f"  {'x' * 65}: {{method: lora}}", ["is not a name", "at most 64"]),
        ("method: lora", ["c.yaml:5: method: give either method or methods"]),
        ("cache: 1", ["c.yaml:5: cache: 1 is not allowed"]),
        ("x: !!python/object/apply:os.system [ls]", ["c.yaml:5: not valid YAML", "os.system"]),
        ("threads: !!int ''", ["c.yaml:5: not valid YAML: the tag !!int is not read"]),
        ("threads: !!int '017'", ["c.yaml:5: not valid YAML: the tag !!int is not read"]),
        ("cache: !!bool maybe", ["c.yaml:5: not valid YAML: the tag !!bool is not read"]),
        ("x: !!timestamp x", ["c.yaml:5: not valid YAML: the tag !!timestamp is not read"]),
        ("x: !mine {a: 1}", ["c.yaml:5: not valid YAML: the tag !mine is not read"]),
        ("x: [", ["c.yaml:6: not valid YAML"]),
        ("\tx: 1", ["c.yaml:5: not valid YAML"]),
        ("--- \nname: b", ["c.yaml:5: not valid YAML: but found another document"]),
        ("? [a, b]\n: 3", ["c.yaml:5: a key should be a plain word"]),
        ("a: &x {b: 1}\nc: {<<: *x}", ["c.yaml:6: a key should be a plain word"]),
        ('"\\e[31mred\\nx": 1', ["c.yaml:5: \N{REPLACEMENT CHARACTER}[31mred x: unknown key"]),
    ],
)
def test_what_is_added_is_refused(added: str, words: list[str]) -> None:
    text = refusal(f"{GOOD}{added}\n")
    assert all(word in text for word in words), text
    assert "\n" not in text
    assert text.isprintable()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("rank: 2", "rank: 0", ["c.yaml:4: methods.lora.rank: 0 is not allowed", "equal to 1"]),
        ("rank: 2", "rank: 2.5", ["c.yaml:4: methods.lora.rank: 2.5", "valid integer"]),
        ("rank: 2", "rank: true", ["c.yaml:4: methods.lora.rank: True", "valid integer"]),
        ("rank: 2", "rnk: 2", ["c.yaml:4: methods.lora.rnk", "did you mean 'rank'?", "alpha"]),
        (
            "rank: 2",
            "targets: 3",
            ["methods.lora.targets", "valid string", "or it should"],
        ),
        (
            "lora: {rank: 2}",
            "full: {adapter: {name: lora, rnk: 2}}",
            ["full.adapter.rnk", "'rank'"],
        ),
        (DATA, "mnits", ["c.yaml:2: benchmark.dataset", "'mnist'"]),
        (DATA, "3", ["c.yaml:2: benchmark.dataset: 3", "a name, or"]),
        (DATA, "npz", ["c.yaml:2: benchmark.dataset.path: is missing"]),
        ("tasks: 3", "taks: 3", ["c.yaml:2: benchmark.taks: unknown key (did you mean 'tasks'?)"]),
        ("tasks: 3", "class_order: fixd", ["benchmark.class_order: 'fixd'", "'fixed'", "list"]),
        ("name: split", "name: splt", ["c.yaml:2: benchmark", "'split'", "permuted"]),
        ("name: t", "name: ../t", ["c.yaml:1: name: '../t' is not a name"]),
        ("name: t", "name: 3", ["c.yaml:1: name: 3", "valid string"]),
        ("name: t", "name: off", ["c.yaml:1: name: off is", "put it in quotes: 'off'"]),
        ("name: t", "name:", ["c.yaml:1: name: None is not allowed: it should be a valid string"]),
        (DATA, "off", ["c.yaml:2: benchmark.dataset: off is", "put it in quotes: 'off'"]),
        (DATA, "{name: npz, path: ''}", ["c.yaml:2: benchmark.dataset.path: is empty"]),
        (DATA, "{name: folder, path: ~nosuchuser}", ["dataset.path: ~nosuchuser: there is no u"]),
        ("name: t\n", "", ["c.yaml: name: is missing"]),
        ("  lora: {rank: 2}", "  {}", ["c.yaml:3: methods: {}", "at least 1 item"]),
        ("\n  lora: {rank: 2}", "", ["c.yaml:3: methods: None", "mapping"]),
        ("\n  lora: {rank: 2}", " [lora]", ["c.yaml:3: methods: ['lora']", "mapping"]),
        ("methods:\n  lora: {rank: 2}", "method: 3", ["c.yaml:3: method: 3 should be a name"]),
    ],
)
def test_what_is_changed_is_refused(old: str, new: str, words: list[str]) -> None:
    assert old in GOOD
    text = refusal(GOOD.replace(old, new))
    assert all(word in text for word in words), text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "c.yaml: is empty; a config needs name, benchmark and methods"),
        ("# nothing\n", "c.yaml: is empty"),
        ("- a\n", "c.yaml:1: a config is a mapping of keys, not a list"),
        ("hello", "not text"),
        ("name: [", "c.yaml:1: not valid YAML"),
        ("name: \x07\n", "c.yaml: not valid YAML"),
        ("a: " + "9" * 5000, "c.yaml: not valid YAML"),
    ],
)
def test_what_is_no_config_is_refused(text: str, words: str) -> None:
    assert words in refusal(text)
    assert "\n" not in refusal(text)


def test_several_problems_are_told_together() -> None:
    lines = refusal(f"{GOOD}trian: 1\nthreads: 0\n").splitlines()
    assert sorted(line[:8] for line in lines) == ["c.yaml:5", "c.yaml:6"]
    many = "".join(f"key{number}: 1\n" for number in range(1000))
    assert len(refusal(GOOD + many).splitlines()) == 21
    assert refusal(GOOD + many).endswith("c.yaml: and 980 more")


def test_files_that_are_no_configs(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "split.yaml").write_text(GOOD)
    cases = {
        tmp_path: "is a directory, not a config file",
        tmp_path / "binary.yaml": "is not a text file in UTF-8",
        tmp_path / "spilt.yaml": "No such file or directory (did you mean 'split.yaml'?)",
        tmp_path / "split.yaml" / "x": "cannot be read",
        Path("/dev/zero"): "larger than a config can be",
    }
    for path, words in cases.items():
        with pytest.raises(ConfigError, match=r"^[^\n]*$") as caught:
            load_config(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert words in str(caught.value)
    assert len(cases) == 5


def test_bombs_are_refused_at_once(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 12):
        bomb += f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n"
    bombs = {
        "aliases": bomb,
        "endless": "a: &a [*a]\n",
        "endless mapping": "a: &a {b: *a}\n",
        "10 MB": "key: value\n" * 1_000_000,
        "10 MB of one text": f"name: {'x' * 10_000_000}\n",
        "brackets": "[" * 65_000,
        "braces": "{a: " * 16_000,
        "indents": "\n".join(f"{' ' * level}a:" for level in range(340)),
        "quotes": "'" * 65_001,
        "long key": f"? {'k' * 65_000}\n: 1",
        "many keys": "".join(f"k{number}: 1\n" for number in range(6_500)),
    }
    parse_config(GOOD, "warm up")
    for name, text in bombs.items():
        path = tmp_path / "bomb.yaml"
        path.write_text(text)
        start = time.process_time()
        with pytest.raises(ConfigError) as caught:
            load_config(path)
        assert time.process_time() - start < 3.0, name
        assert len(str(caught.value)) < 10_000
    assert len(bombs) == 11


def test_numbers_and_words() -> None:
    texts = {"1e-3": 1e-3, "1E-3": 1e-3, "1.5e-3": 1.5e-3, ".5": 0.5, "1": 1.0, "+1.0": 1.0}
    for text, number in texts.items():
        train = parse_config(f"{GOOD}train: {{lr: {text}}}", "c.yaml").config.train
        assert train.lr == number
        assert type(train.lr) is float
    for text in ("'1e-3'", "0x1", "e5", "-e5", "1_", "on", "017"):
        assert "train.lr" in refusal(f"{GOOD}train: {{lr: {text}}}"), text
    assert parse_config(GOOD.replace("name: t", "name: 2020-01-01"), "").config.name == "2020-01-01"
    labels = ["off", "3", "null", "1e5"]
    quoted = "".join(f"  '{label}': {{method: lora}}\n" for label in labels)
    assert list(parse_config(GOOD + quoted, "").config.methods) == ["lora", *labels]


def test_overrides() -> None:
    def overridden(*overrides: str):
        return parse_config(GOOD, "c.yaml", overrides).config

    assert overridden("train.lr=1e-2").train.lr == 0.01
    assert overridden("methods.lora.rank=4").methods["lora"].rank == 4
    assert overridden("methods.lora-r2={method: lora}").methods["lora-r2"].rank == 8
    assert overridden("seeds=[4, 2]").seeds == [4, 2]
    assert overridden("seeds=3").seeds == [0, 1, 2]
    assert overridden("benchmark.dataset.classes=9").benchmark.dataset.classes == 9
    assert overridden("benchmark.dataset=digits").benchmark.dataset.name == "digits"
    assert overridden("model.hidden=[3, 4]").model.hidden == [3, 4]
    assert overridden("train.lr=0.5", "train.lr=0.25").train.lr == 0.25
    dotted = GOOD.replace("lora:", "lora.v2: {method: lora}\n  lora:")
    config = parse_config(dotted, "c.yaml", ["methods.lora.v2.rank=5"]).config
    assert config.methods["lora.v2"].rank == 5
    single = parse_config(
        GOOD.replace("methods:\n  lora:", "method: lora #"), "", ["method.rank=3"]
    )
    assert single.config.methods["lora"].rank == 3


def test_a_list_of_labels_picks_methods_with_their_options() -> None:
    text = GOOD.replace("{rank: 2}", "{rank: 4, alpha: 2}")
    text += "  frozen:\n  lora-r2: {method: lora, rank: 2}\n"

    def picked(*overrides: str) -> dict[str, Any]:
        return dict(parse_config(text, "c.yaml", overrides).config.methods)

    whole = picked()
    assert list(whole) == ["lora", "frozen", "lora-r2"]
    assert picked("methods=[lora-r2, lora]") == {k: whole[k] for k in ("lora", "lora-r2")}
    # In the config's order, and options given before or after hold.
    assert list(picked("methods=[lora-r2, lora]")) == ["lora", "lora-r2"]
    for overrides in (
        ("methods=[lora]", "methods.lora.rank=16"),
        ("methods.lora.rank=16", "methods=[lora]"),
    ):
        (lora,) = picked(*overrides).values()
        assert (lora.rank, lora.alpha) == (16, 2.0)
    assert picked("methods={lora: {}}")["lora"].alpha != 2.0  # A mapping is all there is.


def test_what_the_file_says_of_methods_that_are_not_picked_goes_with_them() -> None:
    text = GOOD + "  lora-r2: {method: lora, rank: 2}\n  full:\n  frozen:\n"
    text += (
        "sweep: {methods.lora.rank: [1, 2], methods.lora-r2.alpha: [1, 2], threads: [1, 2]}\n"
        "tune: {space: {methods.lora.rank: [1, 2], methods.full.train.lr: [0.1]}}\n"
    )
    published = "expect: {source: x, cells: {full: {mean: 1}, lora: {mean: 1}}, quick: [lora]}\n"
    both = parse_config(text, "c.yaml", ["methods=[lora-r2, full]"])
    found = [(p.config.threads, p.config.methods["lora-r2"].alpha) for p in both.points]
    assert sorted(found) == [(1, 1.0), (1, 2.0), (2, 1.0), (2, 2.0)]
    assert both.tune is not None
    assert both.tune.space == {"methods.full.train.lr": [0.1]}
    none = parse_config(text, "c.yaml", ["methods=[frozen]", "sweep=null"])
    assert none.tune is not None
    assert none.tune.space == TuneOptions().space
    expected = text[: text.index("sweep")] + published
    kept = parse_config(expected, "c.yaml", ["methods=[full, frozen]"]).expect
    assert kept is not None
    assert (list(kept.cells), kept.quick) == (["full"], None)
    assert parse_config(expected, "c.yaml", ["methods=[frozen]"]).expect is None
    # A label that the file does not have is still told.
    wrong = expected.replace("cells: {full", "cells: {fool")
    assert "no label is 'fool'" in refusal(wrong, "methods=[full, lora]")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train", "-o train: should be KEY=VALUE, such as train.lr=0.01"),
        ("=3", "-o =3: should be KEY=VALUE"),
        ("trian.lr=3", "-o trian: unknown key (did you mean 'train'?)"),
        ("train.lr=x", "-o train.lr: 'x' is not allowed"),
        ("train.lr=[", "-o train.lr=[: not valid YAML"),
        ("train.lr.x=3", "-o train.lr: {'x': 3} is not allowed"),
        ("seeds=", "-o seeds: None is not allowed"),
        ("seeds.0=4", "-o seeds: {'0': 4} is not allowed"),
        ("methods.lora.rank=0", "-o methods.lora.rank: 0 is not allowed"),
        ("methods.lora.rnk=1", "-o methods.lora.rnk: unknown key (did you mean 'rank'?)"),
        ("methods.x.rank=3", "-o methods.x: nothing here is called 'x'"),
        ("method=lora", "-o method: give either method or methods"),
        ("name=../x", "-o name: '../x' is not a name"),
        ("name.x=3", "-o name: {'name': 't', 'x': 3} is not allowed"),
        ("a.b.c.=3", "-o a: unknown key"),
        (
            "benchmark.tasks.0=3",
            "-o benchmark.tasks.0=3: benchmark.tasks is not a mapping",
        ),
        ("name=off", "-o name: off is not allowed: it should be a valid string; YAML reads off"),
        ("train={off: 1}", "-o train={off: 1}: off: YAML reads off as false; put it in quotes"),
        ("threads=!!int 3", "-o threads=!!int 3: not valid YAML: the tag !!int is not read"),
        ("methods=[lroa]", "-o methods=[lroa]: no label is 'lroa' (did you mean 'lora'?); there"),
        ("methods=[lora, {x: 1}]", "-o methods=[lora, {x: 1}]: no label is {'x': 1}"),
        ("methods=[lora, 8]", "-o methods=[lora, 8]: no label is 8; there are lora"),
        ("methods=[]", "-o methods: {} is not allowed"),
        ("x=\x1b[31m", "-o x=\N{REPLACEMENT CHARACTER}[31m: not valid YAML"),
    ],
)
def test_bad_overrides_are_refused(override: str, words: str) -> None:
    text = refusal(GOOD, override)
    assert text.startswith(words)
    assert "\n" not in text


def test_a_single_method() -> None:
    for method in ("method: lora", "method: {name: lora, rank: 8}"):
        config = parse_config(GOOD.replace("methods:\n  lora: {rank: 2}", method), "c.yaml").config
        assert list(config.methods) == ["lora"]
        assert config.methods["lora"].rank == 8
    text = refusal(GOOD.replace("methods:\n  lora: {rank: 2}", "method: {name: lora, rank: 0}"))
    assert text.startswith("c.yaml:3: method")


# What only the data can tell


def unprepared(text: str) -> str:
    with pytest.raises(LoraClError) as caught:
        prepare(parse_config(text, "c.yaml"), None, lambda message: None)
    return str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "tasks: 3",
            "tasks: 7",
            ["c.yaml:2: benchmark.tasks: 7 tasks", "more than the 6"],
        ),
        ("tasks: 3", "tasks: 4", ["c.yaml:2: benchmark.tasks", "allowed: 1, 2, 3, 6"]),
        ("tasks: 3", "class_order: [0, 9]", ["c.yaml:2: benchmark.class_order", "0..5"]),
        (
            "rank: 2",
            "targets: nothing",
            ["c.yaml:4: methods.lora: targets", "all-linear"],
        ),
        ("split", "rotated", ["c.yaml:2: benchmark.dataset: rotation needs images"]),
        ("name: t", "name: t\nbase: {weights: no.safetensors}", ["c.yaml:2: base.weights: no.saf"]),
        (
            "name: t",
            "name: t\nbase: {pretrain: {dataset: digits, classes: [3, 10]}}",
            ["c.yaml:2: base.pretrain.classes: digits has no class 10, only 0..9"],
        ),
        (
            "name: t",
            "name: t\nbase: {pretrain: {dataset: digits}}",
            ["c.yaml:2: base.pretrain.dataset: digits has inputs of (1, 8, 8)", "(32,)"],
        ),
    ],
)
def test_what_does_not_fit_the_data_is_refused(old: str, new: str, words: list[str]) -> None:
    assert old in GOOD
    text = unprepared(GOOD.replace(old, new))
    assert all(word in text for word in words), text
    assert "\n" not in text


def test_bad_data_files_are_named_with_their_key(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(40, 5)), np.repeat([0, 1], 20)
    np.savez(tmp_path / "good.npz", x=x, y=y)
    whole = (tmp_path / "good.npz").read_bytes()
    cases = {"truncated": whole[: len(whole) // 2], "empty": b"", "foreign": b"x" * 100}
    for name, content in cases.items():
        (tmp_path / f"{name}.npz").write_bytes(content)
    for name in (*cases, "missing"):
        path = tmp_path / f"{name}.npz"
        text = unprepared(GOOD.replace(DATA, f"{{name: npz, path: {path}}}"))
        assert text.startswith(f"c.yaml:2: benchmark.dataset: {path}: ")
        assert "\n" not in text
    with pytest.raises(DataError):
        prepare(
            parse_config(GOOD.replace(DATA, f"{{name: npz, path: {path}}}"), ""),
            None,
            print,
        )


def test_check_needs_no_data_to_find_what_it_can(tmp_path: Path) -> None:
    text = GOOD.replace(DATA, "mnist").replace("tasks: 3", "tasks: 11")
    with pytest.raises(ConfigError, match="11 tasks are more than the 10 classes"):
        check(parse_config(text, "c.yaml"), tmp_path)


def test_a_config_without_methods_has_none_to_pick_from() -> None:
    text = GOOD.replace("methods:\n  lora: {rank: 2}", "method: lora")
    assert refusal(text, "methods=[lora]") == (
        "-o methods=[lora]: c.yaml has no methods to pick from"
    )
