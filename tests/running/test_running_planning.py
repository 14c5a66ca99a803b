"""What a command says that it will do is what it then does."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lora_cl import api
from lora_cl.config import Experiment, parse_config
from lora_cl.errors import ConfigError
from lora_cl.records.events import append_event
from lora_cl.records.folders import load_records
from lora_cl.running import session
from lora_cl.running.folder import RESULT, RunFolder
from lora_cl.running.planning import Planned, summary
from lora_cl.running.runner import Where, run_one
from lora_cl.testing.runs import outcome

TINY = """
name: tiny
benchmark: {name: split, dataset: {name: synthetic, classes: 4, train_per_class: 8}, tasks: 2}
model: {hidden: [4]}
train: {epochs: 2, batch_size: 8}
methods: {full: , frozen: , lora: {rank: 2}}
seeds: 2
checkpoint_seconds: 0
"""


def tiny(*overrides: str) -> Experiment:
    return parse_config(TINY, "tiny.yaml", overrides)


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def cut_off(one: Planned, results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begins the run, and interrupts it after its first task, of which there is a checkpoint."""

    def interrupted(folder: Path, event: str, **fields: Any) -> None:
        if event == "evaluated":
            raise KeyboardInterrupt
        append_event(folder, event, **fields)

    with monkeypatch.context() as patch:
        patch.setattr(session, "append_event", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_one(one.run, Where(results))


def outlooks(results: Path, *overrides: str, force: bool = False) -> dict[str, int]:
    planned = api.plan(tiny(*overrides), results=results, device="cpu", force=force)
    return dict(Counter(one.outlook for one in planned))


def test_done_runs_are_reused_begun_ones_resumed_and_nothing_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert outlooks(tmp_path / "none") == {"to do": 6}
    assert not (tmp_path / "none").exists()
    api.run(tiny("seeds=1"), results=tmp_path, jobs=0, progress=False)
    (begun,) = [
        one for one in api.plan(tiny("seeds=[1]"), results=tmp_path) if one.run.label == "full"
    ]
    cut_off(begun, tmp_path, monkeypatch)
    assert any((begun.folder.path / "checkpoint").iterdir())
    before = files(tmp_path)
    assert outlooks(tmp_path) == {"reused": 3, "resumed": 1, "to do": 2}
    assert outlooks(tmp_path, force=True) == {"to do": 6}
    assert files(tmp_path) == before
    told: list[str] = []
    api.run(tiny(), results=tmp_path, jobs=0, progress=False, say=told.append)
    assert told[1:] == ["6 runs: 3 reused, 1 resumed, 2 to do"]
    assert outlooks(tmp_path) == {"reused": 6}


def test_the_same_run_under_another_name_is_reused(tmp_path: Path) -> None:
    api.run(tiny("seeds=1"), results=tmp_path, jobs=0, progress=False)
    assert outlooks(tmp_path, "seeds=1", "name=other") == {"reused": 3}
    renamed = ("seeds=1", "methods={mine: {method: lora, rank: 2}}")
    assert outlooks(tmp_path, *renamed) == {"reused": 1}
    assert outlooks(tmp_path, "seeds=1", "train.lr=0.5") == {"to do": 3}


def test_what_is_damaged_is_to_do(tmp_path: Path) -> None:
    records = api.run(tiny("seeds=1"), results=tmp_path, jobs=0, progress=False)
    (records[0].folder / RESULT).write_text("{")
    (records[1].folder / "model.safetensors").unlink()
    shutil.rmtree(records[2].folder)
    assert outlooks(tmp_path, "seeds=1") == {"to do": 3}


@pytest.mark.parametrize(
    ("only", "labels"),
    [
        (["lora"], ["lora"]),
        (["f*"], ["full", "frozen"]),
        (["lora,full"], ["full", "lora"]),
        (["lora", "full"], ["full", "lora"]),
        ([], ["full", "frozen", "lora"]),
    ],
)
def test_only_some_methods_are_run(tmp_path: Path, only: list[str], labels: list[str]) -> None:
    planned = api.plan(tiny("seeds=1"), results=tmp_path, only=only)
    assert [one.run.label for one in planned] == labels
    # Their places in the table are those in the whole config.
    whole = ["full", "frozen", "lora"]
    assert [one.run.position for one in planned] == [whole.index(label) for label in labels]


def test_only_what_is_there(tmp_path: Path) -> None:
    experiments = [tiny(), tiny("methods={pnn: }", "name=other")]
    planned = api.plan(experiments, results=tmp_path, only=["pnn"])
    assert {one.run.experiment for one in planned} == {"other"}
    with pytest.raises(ConfigError) as caught:
        api.run(experiments, results=tmp_path / "r", only=["pnn", "lroa"])
    assert str(caught.value) == (
        "--only lroa: is no label (did you mean 'lora'?); there are full, frozen, lora, pnn"
    )
    assert not (tmp_path / "r").exists()


def test_only_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    records = api.run(tiny("seeds=1"), results=tmp_path, jobs=0, progress=False, only=["fro*"])
    assert [record.label for record in records] == ["frozen"]
    assert [record.label for record in load_records([tmp_path])] == ["frozen"]


def test_the_summary_counts_what_there_is(tmp_path: Path) -> None:
    (run, *_) = tiny().runs({})
    folder = RunFolder(tmp_path, run)

    def told(*outlooks: str) -> str:
        return summary([Planned(run, folder, outlook) for outlook in outlooks])

    assert told("to do", "reused", "to do") == "3 runs: 1 reused, 2 to do"
    assert told("resumed", "reused") == "2 runs: 1 reused, 1 resumed"
    assert told("reused") == "1 run: 1 reused"


def test_shards_are_disjoint_complete_and_stay_when_seeds_are_added() -> None:
    few = {p.run.run_hash for p in api.plan(tiny("seeds=20"), results="nowhere")}
    dealt: dict[str, int] = {}
    for n in (1, 7):
        dealt = {}
        for number in range(1, n + 1):
            for one in api.plan(tiny("seeds=20"), results="nowhere", shard=f"{number}/{n}"):
                assert dealt.setdefault(one.run.run_hash, number) == number
        assert dealt.keys() == few
    sizes = Counter(dealt.values())
    assert len(sizes) == 7
    assert min(sizes.values()) >= 2
    more = 0
    for number in range(1, 8):
        for one in api.plan(tiny("seeds=25"), results="nowhere", shard=f"{number}/7"):
            assert dealt.get(one.run.run_hash, number) == number
            more += 1
    assert more == 75


def test_seven_parts_done_apart_are_the_whole_and_have_nothing_to_do_again(tmp_path: Path) -> None:
    def done(name: str, shard: str | None) -> dict[Path, Any]:
        results = tmp_path / name
        records = api.run(tiny("seeds=3"), results=results, shard=shard, jobs=0, progress=False)
        assert {record.status for record in records} <= {"done"}
        return {record.folder.relative_to(results): outcome(record.folder) for record in records}

    merged: dict[Path, Any] = {}
    for number in range(1, 8):
        part = done(f"part-{number}", f"{number}/7")
        assert not merged.keys() & part.keys()
        merged |= part
        shutil.copytree(tmp_path / f"part-{number}", tmp_path / "merged", dirs_exist_ok=True)
    assert merged == done("whole", None)
    assert len(merged) == 9
    assert outlooks(tmp_path / "merged", "seeds=3") == {"reused": 9}
    added: Counter[str] = Counter()
    for number in range(1, 8):
        part_of = {"results": tmp_path / f"part-{number}", "shard": f"{number}/7"}
        added.update(one.outlook for one in api.plan(tiny("seeds=5"), **part_of))
    assert added == {"reused": 9, "to do": 6}


@pytest.mark.parametrize(
    "text", ["0/3", "4/3", "1", "1/0", "a/b", "-1/3", "1/3/5", "", "1/1000000000"]
)
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not allowed: it is i/n"):
        api.plan(tiny(), results="nowhere", shard=text)
