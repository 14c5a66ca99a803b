"""The commands: what they print, where to, and how they end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from process_cases import ENVIRONMENT, ask
from typer.testing import CliRunner

from lora_cl.cli import commands as cli
from lora_cl.records.folders import load_records

TINY = """
name: tiny
benchmark: {name: split, dataset: {name: synthetic, classes: 4}, tasks: 2}
model: {hidden: [8]}
methods: {full: , lora: {rank: 2}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


def refused(*arguments: str | Path) -> str:
    """The one line of a request that was wrong."""
    code, out, err = ask(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_run_then_compare_then_diff(config: Path, tmp_path: Path) -> None:
    results = tmp_path / "r"
    code, out, err = ask("run", config, "--results", results, "--jobs", "0", "-o", "seeds=2")
    assert (code, out) == (0, "")
    assert "4 runs: 4 done" in err
    code, out, err = ask("compare", results)
    assert (code, err) == (0, "")
    assert "lora" in out
    code, out, _ = ask("compare", results, "--format", "json")
    assert [row["n_seeds"] for row in json.loads(out)] == [2, 2]
    target = tmp_path / "new" / "table.md"
    assert ask("compare", results, "--format", "markdown", "--output", target)[0] == 0
    assert target.read_text().startswith("#") or "|" in target.read_text()
    folders = [record.folder for record in load_records([results])]
    assert ask("diff", folders[0], folders[0]) == (0, "no difference\n", "")
    code, out, err = ask("diff", folders[0], folders[1])
    assert (code, err) == (1, "")
    assert out.startswith("config: seeds.0: ")
    assert "is not a run folder" in refused("diff", folders[0], results)


def test_validate(config: Path) -> None:
    assert ask("validate", config) == (0, f"{config}: valid, 2 runs\n", "")
    assert ask("validate", config, "-o", "seeds=5")[1].endswith("valid, 10 runs\n")
    config.write_text(TINY.replace("rank: 2", "rank: 0"))
    assert f"{config}:5: methods.lora.rank: 0 is not allowed" in refused("validate", config)


def test_schema_and_lists() -> None:
    assert json.loads(ask("schema")[1])["title"] == "lora-cl config"
    for what in ("methods", "benchmarks", "datasets", "models", "configs"):
        code, out, _ = ask("list", what)
        assert code == 0
        assert len(out.splitlines()) >= 2
    assert "(did you mean 'methods'?)" in refused("list", "method")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "--format", "jsn"], "--format jsn: is not one of table, markdown, latex"),
        (["compare", "/nowhere"], "/nowhere: does not exist"),
        (["compare", __file__], "is not a directory"),
        (["run", "/nowhere.yaml"], "/nowhere.yaml: cannot be read: No such file"),
        (["validate", "/"], "/: is a directory, not a config file"),
        (["data", "fetch", "mnits"], "nothing here is called 'mnits' (did you mean 'mnist'?)"),
        (["diff", "/nowhere", "/nowhere"], "/nowhere: is not a run folder"),
    ],
)
def test_wrong_requests(arguments: list[str], words: str) -> None:
    assert words in refused(*arguments)


def test_nothing_is_started_when_one_of_the_configs_is_wrong(config: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(TINY.replace("tasks: 2", "tasks: 5"))
    err = refused("run", config, bad, "--results", tmp_path / "r", "--jobs", "0")
    assert f"{bad}:3: benchmark.tasks: 5 tasks are more than the 4 classes" in err
    assert not (tmp_path / "r").exists()
    err = refused("run", config, "--device", "gpu", "--results", tmp_path / "r")
    assert "--device gpu: is not one of auto, cpu, cuda, mps" in err
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        err = refused("run", config, "--results", place, "--jobs", "0")
        assert f"{place}: cannot be written to" in err


def test_an_output_that_cannot_be_written(config: Path, tmp_path: Path) -> None:
    ask("run", config, "--results", tmp_path / "r", "--jobs", "0")
    (tmp_path / "file").write_text("")
    err = refused("compare", tmp_path / "r", "--output", tmp_path / "file" / "x.md")
    assert "cannot be written" in err


def test_a_failed_run_is_exit_code_1(config: Path, tmp_path: Path) -> None:
    config.write_text(f"{TINY}train: {{optimizer: sgd, lr: 1e30, batch_size: 8}}\n")
    code, out, err = ask("run", config, "--results", tmp_path / "r", "--jobs", "0")
    assert (code, out) == (1, "")
    assert "full seed 0: diverged" in err
    assert "the loss is not a finite number at task 0" in err
    table = ask("compare", tmp_path / "r")[1]
    assert "full: diverged: seed 0" in table


def test_an_unexpected_error_is_a_line_and_with_debug_a_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("odd\x1b[31m\nthing")

    monkeypatch.setattr("lora_cl.report.compare_table", broken)
    code, out, err = ask("compare", tmp_path)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert err.startswith("error: KeyError: ")
    assert "--debug" in err
    assert err.strip().isprintable()
    result = CliRunner().invoke(cli.app, ["--debug", "compare", str(tmp_path)])
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert ask("compare", tmp_path)[0] == 1  # --debug does not stay


def test_interrupts_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lora_cl.report.compare_table", interrupted)
    assert ask("compare", tmp_path) == (
        130,
        "",
        "interrupted; the same command goes on from here\n",
    )


# As a process


def test_help_is_quick_and_imports_no_torch() -> None:
    code = (
        "import sys, lora_cl.cli.commands; "
        "assert not {'torch', 'numpy', 'pandas'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=ENVIRONMENT)
    took = []
    for _ in range(3):
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "lora_cl", "--help"],
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
        )
        took.append(time.monotonic() - start)
        assert done.returncode == 0
        assert "compare" in done.stdout
    print(f"--help answers in {min(took):.2f} s")
    assert min(took) < 1.5  # 0.3 s on an idle machine; the tests may share theirs


def test_the_output_goes_into_a_closed_pipe(config: Path, tmp_path: Path) -> None:
    ask("run", config, "--results", tmp_path / "r", "--jobs", "0", "-o", "seeds=3")
    line = f"{sys.executable} -m lora_cl compare {tmp_path / 'r'} --format csv | true"
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, env=ENVIRONMENT, timeout=60
    )
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr


def test_the_config_of_a_run_folder_can_be_run(config: Path, tmp_path: Path) -> None:
    ask("run", config, "--results", tmp_path / "r", "--jobs", "0")
    record = load_records([tmp_path / "r"])[0]
    code, _, _ = ask(
        "run", record.folder / "config.yaml", "--results", tmp_path / "s", "--jobs", "0"
    )
    assert code == 0
    (again,) = load_records([tmp_path / "s"])
    assert again.folder.name == record.folder.name
    assert again.result["accuracy_matrix"] == record.result["accuracy_matrix"]
    assert yaml.safe_load((again.folder / "config.yaml").read_text())["seeds"] == [0]
