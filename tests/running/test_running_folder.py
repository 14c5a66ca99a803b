"""What a run folder keeps: one whole result at any moment, and whatever a person put there."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from lora_cl.config import RunConfig
from lora_cl.records.layout import OURS
from lora_cl.records.results import read_result
from lora_cl.running import folder as folders
from lora_cl.running import runner
from lora_cl.running.folder import RunFolder
from lora_cl.running.runner import Outcome, Where, run_one
from lora_cl.running.session import Session
from lora_cl.testing.runs import log, one_run, outcome, runs_of

NPZ = """
name: {name}
benchmark: {{name: split, dataset: {{name: npz, path: {path}}}, tasks: 2}}
model: {{hidden: [6]}}
methods: {{{label}: {{method: full}}}}
"""


@pytest.fixture
def run() -> RunConfig:
    found = one_run("lora: {rank: 2}")
    assert found is not None
    return found


def renamed(run: RunConfig, experiment: str, label: str) -> RunConfig:
    (found,) = runs_of(
        run.to_yaml()
        .replace("name: tiny", f"name: {experiment}", 1)
        .replace("  lora:", f"  {label}:")
    )
    return found


def test_the_same_run_under_another_name_is_copied_and_not_trained(
    run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = Where(tmp_path)
    assert run_one(run, where) == Outcome("done")
    other = renamed(run, "elsewhere", "adapters")
    assert other.folder != run.folder
    monkeypatch.setattr(runner, "Session", None)  # Training would fail.
    assert run_one(other, where) == Outcome("done")
    result = read_result(tmp_path / other.folder)
    assert result is not None
    assert (result["experiment"], result["label"]) == ("elsewhere", "adapters")
    assert result["provenance"]["copied_from"] == "tiny/lora"
    ours, theirs = outcome(tmp_path / run.folder), outcome(tmp_path / other.folder)
    assert ours["files"] == theirs["files"]
    assert ours["result"]["accuracy_matrix"] == theirs["result"]["accuracy_matrix"]


def test_repeating_keeps_the_old_result_until_the_new_one_is_whole(
    run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, folder = Where(tmp_path), tmp_path / run.folder
    assert run_one(run, where) == Outcome("done")
    (folder / "notes.txt").write_text("mine")
    before, started = outcome(folder), log(folder)[0]["time"]
    execute = Session.execute

    def cut_off(session: Session) -> None:
        assert session.folder.name.endswith(".anew")
        session.do_task(0)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Session, "execute", cut_off)
    assert run_one(run, where, force=True).status == "failed"
    assert outcome(folder) == before
    assert read_result(RunFolder(tmp_path, run).latest)["status"] == "failed"  # type: ignore[index]
    monkeypatch.setattr(Session, "execute", execute)
    assert run_one(run, where, force=True) == Outcome("done")
    assert outcome(folder) == before
    assert log(folder)[0]["time"] > started
    assert (folder / "notes.txt").read_text() == "mine"
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]


def test_a_replacement_that_was_interrupted_goes_on(run: RunConfig, tmp_path: Path) -> None:
    where, place = Where(tmp_path), RunFolder(tmp_path, run)
    assert run_one(run, where) == Outcome("done")
    whole, stages = outcome(place.path), 0
    for moved in range(len(OURS)):
        shutil.copytree(place.path, place.anew)
        (place.path / "result.json").unlink()
        for name in OURS[1 : 1 + moved]:
            if (place.anew / name).exists():
                folders.remove(place.path / name)
                (place.anew / name).replace(place.path / name)
        assert run_one(run, where) == Outcome("done")
        assert outcome(place.path) == whole
        assert not place.anew.exists()
        stages += 1
    assert stages == 7


def test_a_run_without_its_files_is_not_finished(run: RunConfig, tmp_path: Path) -> None:
    where, folder = Where(tmp_path), tmp_path / run.folder
    assert run_one(run, where) == Outcome("done")
    whole = outcome(folder)
    (folder / "model.safetensors").unlink()
    assert run_one(run, where) == Outcome("done")
    assert outcome(folder) == whole


@pytest.mark.parametrize("name", ["events.jsonl", "checkpoint", "adapters", ".lock", "result.json"])
def test_nothing_is_written_through_a_link(run: RunConfig, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    if name in ("checkpoint", "adapters"):
        outside.mkdir()
        (outside / "00000001.safetensors").write_text("precious")
    else:
        outside.write_text("precious")
    folder = tmp_path / "r" / run.folder
    folder.mkdir(parents=True)
    (folder / name).symlink_to(outside)
    for force in (False, True):
        ended = run_one(run, Where(tmp_path / "r"), force)
        assert ended.status == "failed"
        assert name in (ended.message or "")
        assert "is a link" in (ended.message or "")
    files = [outside] if outside.is_file() else list(outside.iterdir())
    assert [file.read_text() for file in files] == ["precious"]


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_folder_behind_a_link_is_not_entered(run: RunConfig, tmp_path: Path, depth: int) -> None:
    outside, results = tmp_path / "outside", tmp_path / "r"
    outside.mkdir()
    (outside / "kept.txt").write_text("precious")
    link = results.joinpath(*run.folder.parts[: depth + 1])
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    for force in (False, True):
        ended = run_one(run, Where(results), force)
        assert ended.status == "failed"
        assert "is a link" in (ended.message or "")
    assert (outside / "kept.txt").read_text() == "precious"
    assert [path.name for path in outside.rglob("*") if path.is_file()] == ["kept.txt"]


def test_a_results_directory_may_be_a_link_itself(run: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "r").symlink_to(tmp_path / "real")
    assert run_one(run, Where(tmp_path / "r")) == Outcome("done")


def test_another_run_of_the_same_short_hash_is_not_overwritten(
    run: RunConfig, tmp_path: Path
) -> None:
    where, folder = Where(tmp_path), tmp_path / run.folder
    assert run_one(run, where) == Outcome("done")
    twin = RunConfig(run.resolved, run.content, 0, run.config_hash, run.run_hash[:8] + "0" * 56)
    assert twin.folder == run.folder
    before = outcome(folder)
    ended = run_one(twin, where)
    assert ended.status == "failed"
    assert "holds another run" in (ended.message or "")
    assert outcome(folder) == before


def npz(path: Path, shift: float) -> None:
    x = np.random.default_rng(0).normal(size=(40, 5)) + shift
    np.savez(path, x=x, y=np.repeat(range(4), 10))


def test_data_that_changed_since_the_command_began_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    npz(path, 0.0)
    (run,) = runs_of(NPZ.format(name="t", path=path, label="full"))
    npz(path, 1.0)
    os.utime(path, (1, 1))
    ended = run_one(run, Where(tmp_path / "r"))
    assert ended.status == "failed"
    assert "benchmark.dataset: is not what the run was prepared with" in (ended.message or "")
    npz(path, 0.0)
    assert run_one(run, Where(tmp_path / "r")) == Outcome("done")


def test_other_code_is_another_run(
    run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = Where(tmp_path)
    assert run_one(run, where) == Outcome("done")
    monkeypatch.setattr(runner, "code_version", lambda: "f" * 64)
    monkeypatch.setattr("lora_cl.running.preparation.code_version", lambda: "f" * 64)
    other = one_run("lora: {rank: 2}")
    assert other is not None
    assert other.folder != run.folder
    assert run_one(other, where) == Outcome("done")
    assert read_result(tmp_path / other.folder)["content"]["code"] == "f" * 64  # type: ignore[index]
    ended = run_one(run, Where(tmp_path / "elsewhere"))
    assert "code: is not what the run was prepared with" in (ended.message or "")


@pytest.mark.parametrize("field", ["place", "ledger", "sealed"])
def test_a_checkpoint_with_other_fields_is_no_checkpoint(
    run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    from lora_cl.running.checkpoints import Checkpoints, load_tensors, save_tensors

    where, whole = Where(tmp_path / "cut"), Where(tmp_path / "whole")
    assert run_one(run, whole) == Outcome("done")
    evaluate = Session.evaluate

    def interrupted(session: Session, latest: int) -> None:
        if latest == 1:
            raise KeyboardInterrupt
        evaluate(session, latest)

    monkeypatch.setattr(Session, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_one(run, where)
    monkeypatch.setattr(Session, "evaluate", evaluate)
    changed = 0
    for file in (where.results / run.folder / "checkpoint").iterdir():
        tensors, meta = load_tensors(file)
        meta[field] = {"another": 1}
        save_tensors(file, tensors, meta)
        changed += 1
    assert changed == Checkpoints.KEEP
    assert run_one(run, where) == Outcome("done")
    assert outcome(where.results / run.folder) == outcome(whole.results / run.folder)
    assert any(event["event"] == "damaged" for event in log(where.results / run.folder))


def test_a_fresh_branch_starts_without_the_last_ones_moments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `optimizer_state: keep`, heads of all tasks apart, nothing of o_lora trains twice."""
    run = one_run("o_lora: {rank: 2}", "class", "train.optimizer_state=keep")
    assert run is not None
    begun: list[dict[str, float]] = []
    execute = Session.execute

    def watched(session: Session) -> None:
        recall = session.state.memory.recall

        def noting(network, optimizer) -> None:  # type: ignore[no-untyped-def]
            recall(network, optimizer)
            names = {parameter: name for name, parameter in network.named_parameters()}
            begun.append({names[p]: float(s["step"]) for p, s in optimizer.state.items()})

        session.state.memory.recall = noting  # type: ignore[method-assign]
        execute(session)

    monkeypatch.setattr(Session, "execute", watched)
    assert run_one(run, Where(tmp_path)) == Outcome("done")
    steps = 2 * 3  # Two epochs of 40 samples in batches of 16.
    assert begun[0] == {}
    for index in (1, 2):
        assert begun[index] == {
            "heads.shared.weight": steps * index,
            "heads.shared.bias": steps * index,
        }
    assert len(begun) == 3
    assert json.loads((tmp_path / run.folder / "result.json").read_text())["status"] == "done"
