"""The project as a whole: configs, README, registries and documentation agree."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lora_cl.benchmarks import BENCHMARKS
from lora_cl.config import load_config
from lora_cl.data import DATASETS
from lora_cl.methods import METHODS
from lora_cl.models import BACKBONES

ROOT = Path(__file__).parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
PUBLISHED = sorted((ROOT / "configs/published").glob("*.yaml"))
COMMAND = Path(sys.executable).with_name("lora-cl")


def shell_commands(document: Path) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", document.read_text("utf-8"), re.DOTALL)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def test_every_config_validates_and_says_what_it_is():
    checked = 0
    for path in CONFIGS:
        experiment = load_config(path)
        first, second, third = path.read_text("utf-8").splitlines()[:3]
        assert first.startswith("# "), path
        assert second.startswith(f"# lora-cl run configs/{path.name}"), path
        assert third.startswith("# Expect"), path
        assert experiment.config.methods
        checked += 1
    assert checked == len([*(ROOT / "configs").glob("*.*")]) >= 6


def test_every_preset_says_what_was_published_and_where():
    cells = {}
    for path in PUBLISHED:
        experiment = load_config(path)
        first, second, third = path.read_text("utf-8").splitlines()[:3]
        assert first.startswith("# "), path
        assert second.startswith(f"# lora-cl verify {path.stem}"), path
        assert third.startswith("# Expect"), path
        assert "doi:" in experiment.expect.source or "arXiv" in experiment.expect.source
        assert set(experiment.expect.cells) == set(experiment.config.methods)
        cells[path.stem] = len(experiment.expect.cells)
    van_de_ven = {k: n for k, n in cells.items() if k.startswith("van_de_ven_2022_")}
    assert sum(van_de_ven.values()) == 19


def test_every_part_is_registered_and_every_method_has_a_config_and_a_section():
    named = {
        options.method for path in CONFIGS for options in load_config(path).config.methods.values()
    }
    assert named == set(METHODS)
    smoke = load_config(ROOT / "configs" / "smoke.yaml").config
    assert {options.method for options in smoke.methods.values()} == set(METHODS)
    sections = re.findall(r"^### `(\w+)`", (ROOT / "docs/methods.md").read_text("utf-8"), re.M)
    assert sorted(sections) == sorted(METHODS)
    assert len(METHODS) >= 4
    assert set(BENCHMARKS) == {"split", "permuted", "rotated", "sequence"}
    assert "synthetic" in DATASETS
    rows = re.findall(r"^\| `([\w-]+)` \|", (ROOT / "docs/models.md").read_text("utf-8"), re.M)
    assert [name for name in rows if name in BACKBONES] == list(BACKBONES)


def test_makefile_targets_named_in_the_documents_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    named = set()
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text("utf-8")
        named |= set(re.findall(r"(?:`|^)make ([a-z]+)", text, re.M))
    assert {"run", "test", "lint"} <= named <= targets


@pytest.mark.commands
def test_the_commands_of_the_readme_work(tmp_path):
    """Every `lora-cl` line of the README, in order, in an empty folder; runs are shortened."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    environment = {**os.environ, "COLUMNS": "120"}
    ran = 0
    for line in shell_commands(ROOT / "README.md"):
        words = shlex.split(line)
        if words[0] != "lora-cl":
            assert words[0] in {"make", "pip"}, line
            continue
        if words[1] == "run":
            words += ["-o", "seeds=1", "-o", "train.epochs=1"]
        done = subprocess.run(
            [str(COMMAND), *words[1:]],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, f"{line}\n{done.stderr[-2000:]}"
        assert "Traceback" not in done.stderr
        ran += 1
    assert ran >= 6


@pytest.mark.commands
def test_the_python_of_the_readme_works(tmp_path):
    text = (ROOT / "README.md").read_text("utf-8")
    with_peft, source = re.findall(r"```python\n(.*?)```", text, re.S)
    short = source.replace('split_digits.yaml"', 'smoke.yaml"')
    assert short != source
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    # PEFT's own imports, not ours, decide whether something in them is deprecated.
    of_peft = ["-W", "ignore::DeprecationWarning", "-W", "ignore::FutureWarning"]
    for code, flags, printed in (
        (short, [], "average_accuracy"),
        (with_peft, of_peft, "tensor("),
    ):
        done = subprocess.run(
            [sys.executable, "-W", "error", *flags, "-c", code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=250,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert printed in done.stdout


def test_the_yaml_of_the_readme_is_a_config(tmp_path):
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block, "utf-8")
        assert load_config(path).config.name
    assert len(blocks) == 1


def test_the_table_of_the_readme_is_of_its_first_config():
    text = (ROOT / "README.md").read_text("utf-8")
    table = re.findall(r"```text\n(split-digits.*?)```", text, re.S)
    assert len(table) == 2
    config = load_config(ROOT / "configs" / "split_digits.yaml").config
    short, long = (
        {line.split()[0]: line for line in text.splitlines() if re.match(r"^[\w-]+ .*\d", line)}
        for text in table
    )
    assert sorted(set(long) & set(config.methods)) == sorted(config.methods)
    few = set(short) & set(config.methods)
    assert len(few) == 6
    for label in few:  # The same average accuracy in both.
        first, second = (re.findall(r"[\d.]+ ± [\d.]+", rows[label])[0] for rows in (short, long))
        assert first == second


def test_the_other_figures_of_the_readme_are_published():
    text = (ROOT / "README.md").read_text("utf-8")
    published = (ROOT / "results/published/wordnet_tuned.md").read_text("utf-8").replace("**", "")
    names, rows = table_of(published)
    shown_names, shown = table_of(text[text.index("## What it finds") :])
    at = [names.index(name) for name in shown_names]
    for label, cells in shown.items():
        assert cells == [rows[label][i] for i in at]
    assert len(shown) == 6
    bench = (ROOT / "results/published/bench.md").read_text("utf-8")
    _, ratios = table_of(text[text.index("It is not slow") :])
    figures = [figure for row in ratios.values() for figure in row[-1].split(", ")]
    assert len(figures) == 7
    assert all(f"| {figure} |" in bench for figure in figures)


@pytest.mark.parametrize(
    "name",
    [
        *("split_mnist", "split_mnist_domain", "split_mnist_class"),
        *("permuted_mnist_task", "permuted_mnist", "permuted_mnist_class", "wordnet"),
    ],
)
def test_what_is_said_of_tuned_tables_is_in_them(name):
    """The averages of both tables, and the values that the trace has as chosen."""
    folder = ROOT / "results/published"
    text = (folder / "README.md").read_text("utf-8")
    _, said = table_of(text[text.index(f"| {name} |") :])
    given, tuned = (
        {row["label"]: row["average_accuracy"] for row in json.loads(path.read_text("utf-8"))}
        for path in (folder / f"{name}.json", folder / f"{name}_tuned.json")
    )
    traces = ROOT / "configs/tuned" / f"{name}.trace.json"
    tried = json.loads(traces.read_text("utf-8"))["methods"]
    assert {*said, "ncm", "ranpac"} == {*tuned, "ncm", "ranpac"}
    for label, cells in said.items():
        averages = [in_percent(table.get(label)) for table in (given, tuned)]
        trial = tried[label]["trials"][tried[label]["chosen"]]["values"]
        chosen = [f"{key.removeprefix('train.')} {value:.3g}" for key, value in trial.items()]
        assert cells[1:] == [*averages, ", ".join(chosen) or "as given"]
    assert len(said) >= 4


def in_percent(average: dict[str, float | None] | None) -> str:
    """A mean, with its deviation where there are several seeds."""
    if average is None:
        return "-"
    return " ± ".join(f"{100 * average[k]:.1f}" for k in ("mean", "std") if average[k] is not None)


def table_of(text: str) -> tuple[list[str], dict[str, list[str]]]:
    """The first table in markdown: its header, and its rows by their first cell."""
    lines = itertools.dropwhile(lambda line: not line.startswith("|"), text.splitlines())
    table = itertools.takewhile(lambda line: line.startswith("|"), lines)
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table)
    return header, {row[0]: row for row in rows}


def test_help_imports_no_torch():
    code = (
        "import sys; from lora_cl.cli.commands import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'pandas', 'numpy'} & set(sys.modules), 'heavy import'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_constraints_name_every_direct_dependency():
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    wanted = {name.lower() for name in re.findall(r'^\s+"([A-Za-z0-9-]+)>=', text, re.M)}
    extras = re.findall(r"^(?:test|lint) = \[(.*?)\]", text, re.M)
    wanted |= {n.lower() for extra in extras for n in re.findall(r'"([A-Za-z0-9-]+)', extra)}
    pinned = re.findall(r"^([A-Za-z0-9-]+)==", (ROOT / "constraints.txt").read_text(), re.M)
    assert wanted == {name.lower() for name in pinned}
    assert len(wanted) > 15


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configs_are_plain_yaml_for_any_reader(path):
    assert isinstance(yaml.safe_load(path.read_text("utf-8")), dict)


def test_published_classes_are_shuffled():
    """With one order of the classes, a table tells of that order."""
    split = 0
    for name in published_names():
        config = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text("utf-8"))
        if config["benchmark"]["name"] == "split":
            assert config["benchmark"]["class_order"] == "shuffled", name
            split += 1
    assert split >= 3


def published_names():
    (names,) = re.findall(r"^PUBLISHED := (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.M)
    return names.split()
