"""What is opened is not trusted: no pickle, no way out of the results folder, no escapes."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

import lora_cl
from lora_cl.config import parse_config
from lora_cl.errors import ConfigError
from lora_cl.records.results import write_result
from lora_cl.report import FORMATS, compare_table
from lora_cl.running.preparation import prepare

PACKAGE = Path(lora_cl.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

LOADERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
NEVER = {"eval", "exec", "compile", "__import__"}
ATTRIBUTES = {("os", "system"), ("os", "popen"), ("yaml", "load"), ("yaml", "unsafe_load")}


def problems(tree: ast.AST) -> list[str]:
    """Everything in a module that loads or runs what it should not."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.partition(".")[0] in LOADERS]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module] * (node.module.partition(".")[0] in LOADERS)
        elif isinstance(node, ast.Call):
            keywords = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            if isinstance(node.func, ast.Name):
                found += [node.func.id] * (node.func.id in NEVER)
            if isinstance(node.func, ast.Attribute):
                base = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
                name = (base, node.func.attr)
                found += [".".join(name)] * (name in ATTRIBUTES)
                if name == ("torch", "load") and keywords.get("weights_only") is not True:
                    found.append("torch.load")
                if name[1] == "load" and base in ("np", "numpy"):
                    found += ["np.load"] * (keywords.get("allow_pickle") is not False)
                if keywords.get("shell"):
                    found.append("shell=True")
            if keywords.get("allow_pickle"):
                found.append("allow_pickle")
    return found


def test_no_pickle_is_loaded_anywhere() -> None:
    assert len(FILES) > 80
    for file in FILES:
        assert problems(ast.parse(file.read_text())) == [], file


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import joblib.numpy_pickle",
        "torch.load('x')",
        "torch.load('x', weights_only=False)",
        "np.load(x)",
        "np.load(x, allow_pickle=True)",
        "f(allow_pickle=True)",
        "eval('1')",
        "os.system('x')",
        "subprocess.run('x', shell=True)",
        "yaml.load(x)",
    ],
)
def test_the_check_finds_what_it_should(code: str) -> None:
    assert problems(ast.parse(code)) != []


def test_the_check_lets_through_what_is_safe() -> None:
    code = "torch.load(x, weights_only=True); np.load(x, allow_pickle=False); yaml.safe_load(x)"
    assert problems(ast.parse(code)) == []


CONFIG = """
name: {name}
benchmark: {{name: split, dataset: synthetic, tasks: 2}}
methods: {{{label}: {{method: full}}}}
"""
AWAY = ["..", ".", "../x", "/etc", "a/b", "a\\b", "~", "~root", "", " ", "x ", "-x", ".hidden"]
AWAY += ["C:", "nul\0", "a\nb", "\u202ex", "x" * 65, "é", "a%2fb", "$HOME", "`x`", "*"]


@pytest.mark.parametrize("bad", AWAY)
def test_names_stay_in_the_results_folder(bad: str) -> None:
    for name, label in ((bad, "fine"), ("fine", bad)):
        text = CONFIG.format(name=json.dumps(name), label=json.dumps(label))
        with pytest.raises(ConfigError):
            parse_config(text, "c.yaml")


def test_good_names_are_plain_folders() -> None:
    for name in ("a", "A.b_c-d+e", "9", "x" * 64, "a..b"):
        text = CONFIG.format(name=f"'{name}'", label=f"'{name}'")
        (run,) = prepare(parse_config(text, "c.yaml"), None, print)
        assert len(run.folder.parts) == 3
        root = Path("/results")
        assert (root / run.folder).resolve().is_relative_to(root)


EVIL = "<script>alert(1)</script>\x1b[31m|$\\input{/etc/passwd}=cmd\u202e\n%&_#"


@pytest.mark.parametrize("format_name", FORMATS)
def test_what_a_record_says_is_escaped(format_name: str, tmp_path: Path) -> None:
    for seed, status in enumerate(("done", "failed")):
        folder = tmp_path / "e" / "l" / f"seed{seed}-0"
        folder.mkdir(parents=True)
        record = {
            "schema_version": 1,
            "status": status,
            "experiment": EVIL,
            "label": EVIL,
            "method": EVIL,
            "scenario": "task",
            "benchmark": EVIL,
            "seed": seed,
            "n_tasks": 1,
            "needs_task_id": False,
            "isolated": False,
            "accuracy_matrix": [[0.5]],
            "error": {"kind": "x", "message": EVIL, "task": 0, "step": 1} if seed else None,
        }
        write_result(folder, record)
    text = compare_table([tmp_path], format_name, details=True)
    assert "alert" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    if format_name == "markdown":
        assert "<script>" not in text
    if format_name == "latex":
        assert "\\input{" not in text


def done(root: Path, label: str, seed: int) -> tuple[Path, dict[str, Any]]:
    folder = root / "e" / label / f"seed{seed}-0"
    folder.mkdir(parents=True)
    record: dict[str, Any] = {
        "schema_version": 1,
        "status": "done",
        "experiment": "e",
        "label": label,
        "method": label,
        "scenario": "task",
        "benchmark": "split",
        "seed": seed,
        "config_hash": label,
        "n_tasks": 1,
        "needs_task_id": False,
        "isolated": False,
        "accuracy_matrix": [[0.5]],
        "cost": {"train_seconds": 1.0, "total_params": 7},
        "details": {},
    }
    write_result(folder, record)
    return folder, record


@pytest.mark.parametrize("value", [1e200, 1.7e308, -1.0, 2**63 - 1, True, "x", None, [], {}])
@pytest.mark.parametrize(
    "key",
    [
        *("cost.train_seconds", "cost.total_params", "cost", "seed", "n_tasks", "accuracy_matrix"),
        *("details", "routing", "untrained_accuracy", "status", "isolated", "error"),
        "confusion_matrices",
    ],
)
def test_nothing_under_a_right_checksum_ends_compare_for_others(
    key: str, value: object, tmp_path: Path
) -> None:
    for seed in range(2):
        done(tmp_path, "sound", seed)
        folder, record = done(tmp_path, "odd", seed)
    *path, last = key.split(".")
    target = record
    for part in path:
        target = target[part]
    target[last] = value
    write_result(folder, record)
    rows = {row["label"]: row for row in json.loads(compare_table([tmp_path], "json"))}
    assert rows["sound"]["n_seeds"] == 2
    assert rows["sound"]["train_seconds"] == {"mean": 1.0, "std": 0.0, "ci95": 0.0, "n": 2}
    assert rows["odd"]["average_accuracy"]["mean"] == 0.5
    for format_name in FORMATS:
        assert "sound" in compare_table([tmp_path], format_name, details=True)
