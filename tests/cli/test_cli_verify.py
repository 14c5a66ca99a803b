"""verify: runs what is missing, and ends by whether ours is what was published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from process_cases import TWO_RUNS, ask


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Three seeds of two methods, done."""
    path = tmp_path / "plain.yaml"
    path.write_text(TWO_RUNS)
    folder = tmp_path / "results"
    code, _, _ = ask("run", path, "-o", "seeds=3", "--results", folder, "--jobs", "0")
    assert code == 0
    return folder


def preset(tmp_path: Path, full: float, lora: float, seeds: int = 3) -> Path:
    path = tmp_path / "preset.yaml"
    cells = f"{{full: {{mean: {full}, sem: 0.01, n: 20}}, lora: {{mean: {lora}, n: 20}}}}"
    expected = f"expect: {{source: doi:1, quick: [full], cells: {cells}}}\n"
    path.write_text(f"{TWO_RUNS}seeds: {seeds}\n{expected}")
    return path


def means(results: Path) -> dict[str, float]:
    rows = json.loads(ask("compare", results, "--format", "json")[1])
    return {row["label"]: row["average_accuracy"]["mean"] for row in rows}


def test_what_is_done_is_reused_and_what_is_apart_fails(results: Path, tmp_path: Path) -> None:
    ours = means(results)
    common = ("--results", results, "--jobs", "0")
    code, out, err = ask("verify", preset(tmp_path, ours["full"], ours["lora"]), *common)
    assert code == 0
    assert err.splitlines()[1] == "6 runs: 6 reused"
    assert "2 of 2 within two standard errors; weak: 2 of fewer than 5 seeds\n" in out
    far = preset(tmp_path, ours["full"], 0.0)
    target = tmp_path / "verdicts.json"
    code, out, err = ask("verify", far, *common, "--format", "json", "--output", target)
    assert (code, out) == (1, "")
    assert "1 of 2 within two standard errors" in err
    found = {one["label"]: one for one in json.loads(target.read_text())}
    assert [found[label]["verdict"] for label in ("full", "lora")] == ["pass", "fail"]
    assert found["full"]["ours"]["mean"] == ours["full"]
    assert found["lora"]["published"] == {"mean": 0.0, "sem": None, "n": 20}


def test_quick_is_two_seeds_of_what_is_cheap(results: Path, tmp_path: Path) -> None:
    path = preset(tmp_path, 0.5, 0.5, seeds=9)
    common = ("verify", path, "--dry-run", "--results", results)
    assert len(ask(*common)[1].splitlines()) == 18
    assert [line.split() for line in ask(*common, "--quick")[1].splitlines()] == [
        ["tiny", "full", "seed", str(seed), "reused"] for seed in (0, 1)
    ]
    assert len(ask(*common, "--seeds", "4")[1].splitlines()) == 8
    code, out, _ = ask("verify", path, "--seeds", "1", "--results", results, "--jobs", "0")
    assert (code, out.rstrip().splitlines()[-1]) == (1, "0 of 2 within two standard errors, 2 open")


def test_what_cannot_be_verified_is_told_in_a_line(tmp_path: Path) -> None:
    plain = tmp_path / "plain.yaml"
    plain.write_text(TWO_RUNS)
    path = preset(tmp_path, 0.5, 0.5)
    for arguments, told in {
        (plain,): f"{plain}: has no `expect:` section",
        (path, path): "PRESET: two experiments are called tiny",
        ("van_den_*",): "van_den_*: fits no config of the package: ",
        (path, "--format", "csv"): "--format csv: is not one of table, markdown, latex, json",
    }.items():
        code, out, err = ask("verify", *arguments)
        assert (code, out) == (2, "")
        assert err.startswith(f"error: {told}")
        assert err.count("\n") == 1


def test_the_presets_of_the_package_are_found_by_name() -> None:
    code, out, _ = ask("list", "configs")
    assert code == 0
    for scenario in ("task", "domain", "class"):
        assert f"van_de_ven_2022_{scenario}" in out
