"""Every file of a run folder, cut off and with a bit turned: noticed or mended, never believed."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from process_cases import ask

from lora_cl import api
from lora_cl.config import RunConfig
from lora_cl.errors import LoraClError
from lora_cl.report import FORMATS
from lora_cl.running.runner import Outcome, Where, run_one
from lora_cl.testing.runs import one_run, outcome, runs_of


def variants(content: bytes, dice: random.Random) -> Iterator[bytes]:
    """Cut off at the start, in the middle and before the end; three single bits turned; zeros."""
    for length in (0, len(content) // 2, len(content) - 1):
        yield content[:length]
    for _ in range(3):
        place = dice.randrange(len(content))
        yield (
            content[:place]
            + bytes([content[place] ^ (1 << dice.randrange(8))])
            + content[place + 1 :]
        )
    yield b"\0" * len(content)


def damaged(results: Path, copies: Path, dice: random.Random) -> Iterator[tuple[Path, Path]]:
    """Copies of ``results``, each with one of its files changed: the copy, and that file in it."""
    for file in files_of(results):
        for number, content in enumerate(variants((results / file).read_bytes(), dice)):
            place = copies / f"{file.name}-{file.parent.name}-{number}"
            shutil.copytree(results, place)
            (place / file).write_bytes(content)
            yield place, file


def files_of(results: Path) -> list[Path]:
    files = [path.relative_to(results) for path in sorted(results.rglob("*")) if path.is_file()]
    return [file for file in files if file.name != ".lock"]


def numbers(results: Path) -> dict[str, object]:
    """Accuracies by label as `compare` tells them; nothing for what it does not believe."""
    code, out, _ = ask("compare", results, "--format", "json")
    rows = {
        row["label"]: row["accuracy_matrix_mean"] for row in json.loads(out) if row["n_seeds"] == 1
    }
    assert code == (0 if rows else 1)
    return rows


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunConfig]:
    run = one_run("lora: {rank: 2}", "task", "train.epochs=1", "benchmark.tasks=2")
    results = tmp_path_factory.mktemp("finished")
    assert run is not None
    assert run_one(run, Where(results)) == Outcome("done")
    return results, run


def cut_off_at_the_end(run: RunConfig, results: Path) -> None:
    """All tasks are learned, and the model and the record are not written."""

    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("lora_cl.running.session.Session.save_model", cut_off)
        with pytest.raises(KeyboardInterrupt):
            run_one(run, Where(results))


def logits(folder: Path) -> torch.Tensor:
    method = api.load_run(folder)
    x = torch.linspace(-1, 1, 48).reshape(4, 12)
    outputs = []
    with torch.no_grad():
        for task in range(method.benchmark.n_tasks):
            with method.view(task) as network:
                outputs.append(network(x))
    return torch.cat(outputs)


def test_a_finished_run(finished: tuple[Path, RunConfig], tmp_path: Path) -> None:
    results, run = finished
    good, answers = outcome(results / run.folder), logits(results / run.folder)
    accuracies = numbers(results)
    assert len(accuracies) == 1
    files = files_of(results)
    assert len(files) == 8  # config, events, model and result; two files for each of two tasks
    dice = random.Random(0)
    refused = tried = 0
    for place, file in damaged(results, tmp_path, dice):
        tried += 1
        format_name = list(FORMATS)[tried % len(FORMATS)]
        code, out, err = ask("compare", place, "--format", format_name)
        assert code in (0, 1)
        assert out
        assert err == ""
        assert numbers(place) in ({}, accuracies)
        code, out, err = ask("diff", results / run.folder, place / run.folder)
        assert code in (0, 1, 2)
        assert err.count("\n") == (1 if code == 2 else 0)
        if code == 2:
            assert str(place / file) in err
        if file.name == "result.json":
            assert code == 2 or numbers(place) == accuracies
        needed = file.name in ("result.json", "model.safetensors", "adapter_model.safetensors")
        with contextlib.suppress(LoraClError) if needed else contextlib.nullcontext():
            refused += 1
            assert torch.equal(logits(place / run.folder), answers)
            refused -= 1
        assert run_one(run, Where(place)) == Outcome("done")
        if file.name == "result.json":
            assert outcome(place / run.folder) == good
    assert tried == 56
    assert refused >= 20
    print(f"{tried} damaged folders, load_run refused {refused}")


def test_an_unfinished_run_goes_on_or_begins_anew(
    finished: tuple[Path, RunConfig], tmp_path: Path
) -> None:
    whole, run = finished
    good = outcome(whole / run.folder)
    results = tmp_path / "cut"
    cut_off_at_the_end(run, results)
    files = files_of(results)
    assert len(files) == 8  # config, events, two checkpoints, two files for each of two tasks
    dice = random.Random(1)
    tried = anew = 0
    for place, file in damaged(results, tmp_path, dice):
        tried += 1
        assert numbers(place) == {}
        code, _, err = ask("diff", place / run.folder, place / run.folder)
        assert code == 0 or (code == 2 and str(place / file) in err)
        with pytest.raises(LoraClError, match="does not hold a finished run"):
            api.load_run(place / run.folder)
        assert run_one(run, Where(place)) == Outcome("done")
        assert outcome(place / run.folder) == good
        events = (place / run.folder / "events.jsonl").read_text(errors="replace")
        went_back = '"damaged"' in events
        assert not (went_back and file.name in ("config.yaml", "events.jsonl"))
        anew += went_back
    assert tried == 56
    assert anew == 21  # Three files: two for the first task, and the newer checkpoint.
    print(f"{tried} damaged folders, {anew} went back to an earlier state")


def test_both_checkpoints_damaged(finished: tuple[Path, RunConfig], tmp_path: Path) -> None:
    whole, run = finished
    folder = tmp_path / run.folder
    (folder / "checkpoint").mkdir(parents=True)
    for number in (3, 4):
        (folder / "checkpoint" / f"{number:08d}.safetensors").write_bytes(b"nothing")
    (folder / "checkpoint" / "foreign.safetensors").write_bytes(b"nothing")
    assert run_one(run, Where(tmp_path)) == Outcome("done")
    assert outcome(folder) == outcome(whole / run.folder)
    assert [path.name for path in (folder / "checkpoint").iterdir()] == ["foreign.safetensors"]


def test_a_missing_file(finished: tuple[Path, RunConfig], tmp_path: Path) -> None:
    results, run = finished
    good, answers = outcome(results / run.folder), logits(results / run.folder)
    for number, file in enumerate(files_of(results)):
        place = tmp_path / str(number)
        shutil.copytree(results, place)
        (place / file).unlink()
        needed = file.name in ("result.json", "model.safetensors", "adapter_model.safetensors")
        if needed:
            with pytest.raises(LoraClError, match=r"missing|cannot be read|unfinished"):
                logits(place / run.folder)
        else:
            assert torch.equal(logits(place / run.folder), answers)
        assert run_one(run, Where(place)) == Outcome("done")
        if file.name == "result.json":
            assert outcome(place / run.folder) == good
    assert number == 7


def test_what_others_put_among_the_adapters_changes_nothing(
    finished: tuple[Path, RunConfig], tmp_path: Path
) -> None:
    whole, run = finished
    good, results = outcome(whole / run.folder), tmp_path / "cut"
    folder = results / run.folder
    cut_off_at_the_end(run, results)
    mine = ["adapters/task-000.bak", "adapters/task-0", "adapters/task-x", "adapters/task-000/mine"]
    for name in mine:
        shutil.copytree(folder / "adapters" / "task-001", folder / name)
    assert run_one(run, Where(results)) == Outcome("done")
    assert outcome(folder)["result"] == good["result"]
    assert run_one(run, Where(results), force=True) == Outcome("done")
    assert outcome(folder)["result"] == good["result"]
    assert all(len(list((folder / name).iterdir())) == 2 for name in mine)


def test_what_a_killed_run_left_is_taken_away(
    finished: tuple[Path, RunConfig], tmp_path: Path
) -> None:
    whole, run = finished
    results = tmp_path / "r"
    shutil.copytree(whole, results)
    folder = results / run.folder
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / "00000003.safetensors").write_bytes(b"")
    (folder / "adapters" / "task-000" / ".adapter_config.json.17.tmp").write_bytes(b"")
    assert run_one(run, Where(results)) == Outcome("done")
    assert files_of(results) == files_of(whole)
    assert not (folder / "checkpoint").exists()


def test_a_run_without_its_adapters_is_not_done(
    finished: tuple[Path, RunConfig], tmp_path: Path
) -> None:
    whole, run = finished
    good = outcome(whole / run.folder)
    results = tmp_path / "r"
    shutil.copytree(whole, results)
    shutil.rmtree(results / run.folder / "adapters")
    assert run_one(run, Where(results)) == Outcome("done")
    assert outcome(results / run.folder) == good


def test_a_whole_but_foreign_file_is_named(
    finished: tuple[Path, RunConfig], tmp_path: Path
) -> None:
    results, run = finished
    place = tmp_path / "r"
    shutil.copytree(results, place)
    other = one_run("lora: {rank: 2}", "task", "train.epochs=2", "benchmark.tasks=2")
    assert other is not None
    assert run_one(other, Where(place)) == Outcome("done")
    for name in ("model.safetensors", "adapters/task-000/adapter_model.safetensors"):
        shutil.copy(place / other.folder / name, place / run.folder / name)
        with pytest.raises(LoraClError, match=f"{name}: is foreign: .*{other.run_hash[:12]}"):
            logits(place / run.folder)
        shutil.copy(results / run.folder / name, place / run.folder / name)
    shutil.copy(place / other.folder / "result.json", place / run.folder / "result.json")
    assert run_one(run, Where(place)) == Outcome("done")
    assert outcome(place / run.folder) == outcome(results / run.folder)


def test_more_seeds_beside_an_unreadable_one(tmp_path: Path) -> None:
    text = (
        "name: t\nbenchmark: {name: split, dataset: {name: synthetic, classes: 4}, tasks: 2}\n"
        "model: {hidden: [4]}\nmethod: full\nseeds: 3\n"
    )
    runs = runs_of(text)
    for run in runs:
        assert run_one(run, Where(tmp_path)).status == "done"
    (tmp_path / runs[1].folder / "result.json").write_bytes(b"{")
    code, out, _ = ask("compare", tmp_path)
    assert code == 0
    (line,) = [line for line in out.splitlines() if "unreadable" in line]
    assert "seed 1" in line
    frame = api.load_results(tmp_path)
    assert list(frame.status) == ["done", "unreadable", "done"]
