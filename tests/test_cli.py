"""The commands: what they print, where to, and how they end."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from process_cases import ENVIRONMENT, TWO_RUNS, ask, on_terminal
from typer.testing import CliRunner

from lora_cl.cli import commands as cli
from lora_cl.records.folders import load_records


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TWO_RUNS)
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
    assert code == 0
    assert err.startswith("tiny · split · task-incremental\n4 runs: 4 to do\n[1/4] tiny ")
    assert "learned" not in err
    assert "4 runs: 4 done" in err
    assert err.endswith(f"next: lora-cl compare {results / 'tiny'}\n")
    # On stdout are the averages: n, average accuracy and forgetting of each label.
    assert out.startswith("tiny · split · task-incremental\n")
    averages = {line.split()[0]: line.split()[1:] for line in out.splitlines()[4:6]}
    assert averages.keys() == {"full", "lora"}
    assert {words[0] for words in averages.values()} == {"2"}
    code, again, err = ask("run", config, "--results", results, "--jobs", "0", "-o", "seeds=2")
    assert (code, again) == (0, out)
    assert err.splitlines()[1] == "4 runs: 4 reused"
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


def test_quiet_and_verbose(config: Path, tmp_path: Path) -> None:
    here = ("run", config, "--jobs", "0", "--results")
    assert ask(*here, tmp_path / "q", "-q") == (0, "", "")
    verbose = ask(*here, tmp_path / "v", "-v")[2]
    assert "tiny full seed 0: task 1 of 2 learned, accuracy " in verbose
    config.write_text(TWO_RUNS.replace("full:", "full: {train: {lr: 1e30}}"))
    code, out, err = ask(*here, tmp_path / "q", "-q")
    assert (code, out) == (1, "")
    assert err.startswith("tiny full seed 0: diverged: ")
    assert err.count("\n") == 1
    assert "-q: says nothing, and -v asks to" in refused(*here, tmp_path, "-q", "-v")
    assert "-q: says nothing, and --dry-run asks to" in refused(*here, tmp_path, "-q", "--dry-run")


def test_a_config_to_begin_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = "written to config.yaml; next: lora-cl run config.yaml\n"
    assert ask("init") == (0, "", said)
    assert ask("validate", "config.yaml")[1] == "config.yaml: valid, 15 runs\n"
    Path("config.yaml").write_text("mine")
    assert "config.yaml: is there already" in refused("init")
    assert Path("config.yaml").read_text() == "mine"
    assert "(did you mean 'class'?)" in refused("init", "x.yaml", "--scenario", "clas")
    assert not Path("x.yaml").exists()


def test_validate(config: Path) -> None:
    assert ask("validate", config) == (0, f"{config}: valid, 2 runs\n", "")
    assert ask("validate", config, "-o", "seeds=5")[1].endswith("valid, 10 runs\n")
    config.write_text(TWO_RUNS.replace("rank: 2", "rank: 0"))
    assert f"{config}:5: methods.lora.rank: 0 is not allowed" in refused("validate", config)


def test_validate_goes_on_after_a_wrong_config(config: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(TWO_RUNS.replace("rank: 2", "rank: 0"))
    code, out, err = ask("validate", wrong, config, "nowhere.yaml")
    assert (code, out) == (2, f"{config}: valid, 2 runs\n")
    assert [line.split(": ")[1] for line in err.splitlines()] == [f"{wrong}:5", "nowhere.yaml"]


def test_configs_of_the_package_go_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ask("validate", "smoke")[1].startswith("smoke: valid, ")
    assert "smok: is no file and no config of the package (did you mean 'smoke'?)" in refused(
        "validate", "smok"
    )
    assert "nothing: cannot be read: No such file" in refused("validate", "nothing")
    (tmp_path / "smoke").write_text(TWO_RUNS)
    assert ask("validate", "smoke") == (0, "smoke: valid, 2 runs\n", "")


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
    bad.write_text(TWO_RUNS.replace("tasks: 2", "tasks: 5"))
    err = refused("run", config, bad, "--results", tmp_path / "r", "--jobs", "0")
    assert f"{bad}:3: benchmark.tasks: 5 tasks are more than the 4 classes" in err
    assert not (tmp_path / "r").exists()
    err = refused("run", config, "--device", "gpu", "--results", tmp_path / "r")
    assert "--device gpu: is not one of auto, cpu, cuda, mps" in err
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nowhere")):
        err = refused("run", config, "--results", place, "--jobs", "0")
        assert f"{place}: cannot be written to" in err


@pytest.mark.parametrize("target", ["", ".", "/"])
def test_an_output_is_a_file(target: str, config: Path, tmp_path: Path) -> None:
    ask("run", config, "--results", tmp_path / "r", "--jobs", "0")
    err = refused("compare", tmp_path / "r", "--output", target)
    assert err == f"error: {target or '.'}: cannot be written: it is a directory, not a file\n"


def test_an_output_keeps_its_mode_and_its_link(config: Path, tmp_path: Path) -> None:
    ask("run", config, "--results", tmp_path / "r", "--jobs", "0")
    (tmp_path / "secret.md").write_text("old")
    (tmp_path / "secret.md").chmod(0o600)
    (tmp_path / "link.md").symlink_to("secret.md")
    assert ask("compare", tmp_path / "r", "--output", tmp_path / "link.md")[0] == 0
    assert (tmp_path / "link.md").is_symlink()
    assert (tmp_path / "secret.md").stat().st_mode & 0o777 == 0o600
    assert "lora" in (tmp_path / "secret.md").read_text()


def test_a_config_of_ones_own_hides_no_run(config: Path, tmp_path: Path) -> None:
    ask("run", config, "--results", tmp_path / "r", "--jobs", "0")
    alone = ask("compare", tmp_path / "r", "--format", "json")
    for name in ("config.yaml", "result.json", "events.jsonl"):
        (tmp_path / name).write_text("{}\n")
    assert ask("compare", tmp_path, "--format", "json") == alone
    (tmp_path / "away").symlink_to("/")
    code, out, err = ask("compare", tmp_path, "--format", "json")
    assert (code, out) == alone[:2]
    assert err == f"{tmp_path}/away: is a link and not followed; name it to have it looked into\n"


def test_an_output_that_cannot_be_written(config: Path, tmp_path: Path) -> None:
    ask("run", config, "--results", tmp_path / "r", "--jobs", "0")
    (tmp_path / "file").write_text("")
    err = refused("compare", tmp_path / "r", "--output", tmp_path / "file" / "x.md")
    assert "cannot be written" in err


def test_a_failed_run_is_exit_code_1(config: Path, tmp_path: Path) -> None:
    config.write_text(f"{TWO_RUNS}train: {{optimizer: sgd, lr: 1e30, batch_size: 8}}\n")
    code, out, err = ask("run", config, "--results", tmp_path / "r", "--jobs", "0")
    assert (code, out) == (1, "")
    assert "full seed 0: diverged" in err
    assert "the loss is not a finite number at task 0" in err
    assert "next:" not in err
    # Nothing that is shown is done: the table says why, and the exit code that.
    code, table, err = ask("compare", tmp_path / "r")
    assert (code, err) == (1, "")
    assert "full: diverged: seed 0" in table
    target = tmp_path / "table.json"
    assert ask("compare", tmp_path / "r", "--format", "json", "--output", target)[0] == 1
    assert len(json.loads(target.read_text())) == 2
    # One that is done is enough, and counts only where it is shown.
    ask("run", config, "--results", tmp_path / "r", "--jobs", "0", "-o", "train.lr=0.1")
    assert ask("compare", tmp_path / "r")[0] == 0
    assert ask("compare", tmp_path / "r", "--where", "lr=0.1")[0] == 0
    assert ask("compare", tmp_path / "r", "--where", "lr=1e30")[0] == 1


def test_a_dry_run_says_what_would_be_done(config: Path, tmp_path: Path) -> None:
    run = ("run", config, "--results", tmp_path / "r", "--jobs", "0")
    code, out, err = ask(*run, "--dry-run")
    assert (code, err) == (0, "2 runs: 2 to do\n")
    assert out.splitlines() == ["tiny full  seed 0  to do", "tiny lora  seed 0  to do"]
    assert not (tmp_path / "r").exists()
    assert ask(*run, "--only", "l*")[0] == 0
    code, out, err = ask(*run, "--dry-run", "-o", "seeds=2", "--only", "lora")
    assert (code, err) == (0, "2 runs: 1 reused, 1 to do\n")
    assert out.splitlines() == ["tiny lora  seed 0  reused", "tiny lora  seed 1  to do"]
    assert ask(*run, "--dry-run", "--force", "--only", "lora")[2] == "1 run: 1 to do\n"
    assert len(load_records([tmp_path / "r"])) == 1


def test_compare_selects_and_sorts(config: Path, tmp_path: Path) -> None:
    results = tmp_path / "r"
    for rank in (1, 2):
        ask("run", config, "--results", results, "--jobs", "0", "-o", f"methods.lora.rank={rank}")
    compare = ("compare", results, "--format", "csv")
    asked = (*compare, "--sort", "-rank", "--columns", "rank,lr", "--columns", "n_seeds")
    code, out, err = ask(*asked, "--methods", "lora", "--where", "scenario=task")
    assert (code, err) == (0, "")
    assert out.splitlines()[:3] == [
        "experiment,label,method,scenario,benchmark,config.method.rank,config.train.lr,n_seeds",
        "tiny,lora [rank=2],lora,task,split,2,0.001,1",
        "tiny,lora [rank=1],lora,task,split,1,0.001,1",
    ]
    assert "(did you mean 'rank'?)" in refused(*compare, "--sort", "-rnak")
    assert "(did you mean 'lora'?)" in refused(*compare, "--methods", "lor")


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
@pytest.mark.parametrize(("columns", "width"), [(None, 60), (None, 80), ("70", 200)])
def test_the_table_fits_the_terminal(
    config: Path, tmp_path: Path, columns: str | None, width: int
) -> None:
    """COLUMNS before the terminal's own width; into a pipe a table is as wide as it gets."""
    ask("run", config, "--results", tmp_path, "--jobs", "0", "-o", "seeds=2")
    text = on_terminal(width, columns, "compare", tmp_path)
    assert max(map(len, text.splitlines())) <= int(columns or width)
    assert text.count("method ") >= 2
    assert text.count("stored") == 1
    piped = ask("compare", tmp_path)[1]
    assert max(map(len, piped.splitlines())) > 100
    numbers = re.findall(r"\d+\.\d\d ± \d+\.\d\d", piped)
    assert len(numbers) == 8
    assert sorted(re.findall(r"\d+\.\d\d ± \d+\.\d\d", text)) == sorted(numbers)


def test_an_unexpected_error_is_a_line_and_with_debug_a_traceback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("odd\x1b[31m\nthing")

    monkeypatch.setattr("lora_cl.report.comparisons", broken)
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

    monkeypatch.setattr("lora_cl.report.comparisons", interrupted)
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


def test_a_home_directory_is_found_by_the_commands_that_read(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shell leaves `~` alone within quotes, and after `=`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    results = tmp_path / "r"
    assert ask("run", config, "--results", results, "--jobs", "0")[0] == 0
    assert "lora" in ask("compare", "~/r")[1]
    assert ask("fsck", "~/r")[0] == 0
    lora, full = (next(results.glob(f"tiny/{label}/*")) for label in ("lora", "full"))
    one, other = (f"~/{folder.relative_to(tmp_path)}" for folder in (lora, full))
    assert ask("diff", one, other)[0] == 1
    code, _, err = ask("compare", "~nobody-called-so/r")
    assert code == 2
    assert "no user nobody-called-so here" in err


def test_time_that_is_up_has_an_exit_code_of_its_own(config: Path, tmp_path: Path) -> None:
    code, out, err = ask("run", config, "--results", tmp_path, "--jobs", "0", "--max-time", "0s")
    assert (code, out) == (75, "")
    told = "time is up: 2 of 2 runs are not done; the same command goes on from here"
    assert err.splitlines()[-1] == told
    said = refused("run", config, "--results", tmp_path, "--max-time", "soon")
    assert said == "error: --max-time: 'soon' is not allowed: it is a time such as 3h55m or 90s\n"
