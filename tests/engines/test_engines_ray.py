"""Runs on a Ray cluster: the bytes of one machine, whatever happens to its nodes."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from process_cases import command, events_size, session_of, wait_until
from ray_cases import Cluster, cluster, let_in

from lora_cl import api, seeding
from lora_cl.config import load_config, parse_config
from lora_cl.engines import node
from lora_cl.errors import ConfigError
from lora_cl.records.folders import load_records
from lora_cl.testing.runs import log, outcome

RUNS = """
name: many
benchmark: {name: split, dataset: {name: synthetic, classes: 6}, tasks: 3}
model: {hidden: [12]}
train: {epochs: 60, batch_size: 16}
methods: {full: , lora: {rank: 2}, ewc: }
seeds: 2
checkpoint_seconds: 0.2
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    let_in(monkeypatch)
    (tmp_path / "many.yaml").write_text(RUNS)
    (tmp_path / "r").mkdir()
    return tmp_path


@pytest.fixture
def nodes(place: Path) -> Iterator[Cluster]:
    with cluster(place) as made:
        yield made


def expected(place: Path) -> dict[tuple[str, int], Any]:
    """What each run gives on one machine."""
    records = api.run(
        load_config(place / "many.yaml"), results=place / "alone", jobs=0, progress=False
    )
    return {(record.label, record.seed): outcome(record.folder) for record in records}


def found(place: Path) -> dict[tuple[str, int], Any]:
    records = load_records([place / "r"])
    assert [record.status for record in records] == ["done"] * 6
    return {(record.label, record.seed): outcome(record.folder) for record in records}


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a node a file system of its own")
def test_nodes_with_and_without_our_files_give_the_bytes_of_one_machine(
    place: Path, nodes: Cluster
) -> None:
    """One node sees the results directory, the other has an empty one of its own there."""
    nodes.add()
    nodes.add(blind_to=place / "r")
    with command("run", "-v", place / "many.yaml", *_at(nodes, place)) as process:
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "6 runs: 6 done" in err
    assert "many" in out
    assert found(place) == expected(place)
    told = [line for line in err.splitlines() if "task 3 of 3 learned" in line]
    assert len(told) == 6  # Of those that were done out of sight, too.
    again = api.run(
        load_config(place / "many.yaml"),
        results=place / "r",
        engine="ray",
        address="nowhere:1",  # Nothing is to be done: nobody is asked.
        progress=False,
    )
    assert [record.status for record in again] == ["done"] * 6


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a node files of its own")
def test_a_node_with_other_code_is_refused_at_the_start_and_does_nothing_later(
    place: Path, nodes: Cluster
) -> None:
    code = Path(seeding.__file__)
    other = place / "seeding.py"
    other.write_text(code.read_text() + "\n# Another version.\n")
    said = "code of lora-cl is"
    with command("run", place / "many.yaml", *_at(nodes, place)) as process:
        assert process.stderr is not None
        # Made when all nodes have been asked: only the head is there, which has no core.
        assert wait_until(lambda: nodes.runs("head", "ray::Box"), 120)
        unlike = nodes.add(instead=(code, other))
        told = next(line for line in process.stderr if said in line)
        assert re.search(r"node [\d.]+: code of lora-cl is \w.* nothing is done there", told)
        nodes.add()
        _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert said not in err  # Once is enough.
    assert found(place) == expected(place)
    assert nodes.alive(unlike)
    with command("run", place / "many.yaml", *_at(nodes, place), "--force") as process:
        _, err = process.communicate(timeout=240)
    assert process.returncode == 2
    assert said in err


@pytest.mark.slow
@pytest.mark.parametrize("blind", [False, True])
def test_what_a_node_was_doing_when_it_died_is_done_elsewhere(
    blind: bool, place: Path, nodes: Cluster
) -> None:
    if blind and os.geteuid() != 0:
        pytest.skip("only root can give a node a file system of its own")
    first = nodes.add(blind_to=place / "r" if blind else None)
    with command("run", place / "many.yaml", *_at(nodes, place)) as process:

        def under_way() -> bool:
            logs = list((place / "r").rglob("events.jsonl"))
            return process.poll() is not None or any('"epoch"' in f.read_text() for f in logs)

        assert wait_until(under_way, 120)
        nodes.kill(first)  # At once: on an idle machine all runs would be done before long.
        nodes.add()
        _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert found(place) == expected(place)
    lost = {
        record.folder: record.result["provenance"]["lost"]
        for record in load_records([place / "r"])
        if "lost" in record.result["provenance"]
    }
    assert len(lost) >= 1
    for folder in lost:
        events = [event["event"] for event in log(folder)]
        assert events.count("lost") == len(lost[folder])
        assert events.count("done") == 1


@pytest.mark.slow
def test_an_interrupt_leaves_what_goes_on_later_and_no_process(place: Path) -> None:
    arguments = ("run", place / "many.yaml", "--results", place / "r")
    with command(*arguments, "--engine", "ray") as process:
        logs = place / "r"
        assert wait_until(lambda: any(logs.rglob("checkpoint/*.safetensors")), 120)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert err.splitlines()[-1].startswith("interrupted")
        assert wait_until(lambda: not session_of(process.pid), 20), session_of(process.pid)
    assert not list((place / "r").glob(".lora-cl-*"))
    outlooks = [one.outlook for one in api.plan(load_config(place / "many.yaml"), results=logs)]
    assert "resumed" in outlooks
    api.run(load_config(place / "many.yaml"), results=logs, jobs=0, progress=False)
    assert found(place) == expected(place)


@pytest.mark.slow
def test_the_next_driver_takes_up_what_a_killed_one_left(place: Path, nodes: Cluster) -> None:
    names = [nodes.add(), nodes.add()]
    with command("run", place / "many.yaml", *_at(nodes, place)) as process:
        assert wait_until(lambda: any((place / "r").rglob("result.json")), 120)
        assert wait_until(lambda: any((place / "r").rglob("checkpoint/*.safetensors")), 60)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert wait_until(lambda: not any(nodes.runs(name, "ray::_do") for name in names), 60)
        assert not nodes.runs("head", "ray::Box")
    sizes = events_size(place / "r")
    outlooks = [
        one.outlook for one in api.plan(load_config(place / "many.yaml"), results=place / "r")
    ]
    assert outlooks.count("reused") >= 1
    assert outlooks.count("resumed") >= 1
    assert len(list((place / "r").glob(".lora-cl-*"))) == 1
    with command("run", place / "many.yaml", *_at(nodes, place)) as process:
        _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert f"{outlooks.count('reused')} reused, {outlooks.count('resumed')} resumed" in err
    assert events_size(place / "r") > sizes
    assert not list((place / "r").glob(".lora-cl-*"))
    assert found(place) == expected(place)


def _at(nodes: Cluster, place: Path) -> list[str]:
    return ["--results", str(place / "r"), "--engine", "ray", "--address", nodes.address]


def test_a_folder_travels_whole_and_nothing_leaves_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "adapters" / "task-000").mkdir(parents=True)
    (folder / "result.json").write_bytes(b"{}")
    (folder / ".lock").touch()
    (folder / "adapters" / "task-000" / "a.safetensors").write_bytes(b"\0" * 1000)
    node.unpack(node.pack(folder), tmp_path / "there")
    there = {path.name for path in (tmp_path / "there").rglob("*") if path.is_file()}
    assert there == {"result.json", "a.safetensors"}
    assert node.pack(tmp_path / "nothing") == b""
    node.unpack(b"", tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []
    (folder / "adapters" / "out").symlink_to("/etc")
    with pytest.raises(Exception, match="absolute path"):
        node.unpack(node.pack(folder), tmp_path / "bad")


def test_a_mark_is_seen_where_the_folder_is_the_same(tmp_path: Path) -> None:
    mark = node.Mark(tmp_path / "mark", "word")
    assert not mark.is_seen()
    mark.path.write_text("another")
    assert not mark.is_seen()
    mark.path.write_text("word")
    assert mark.is_seen()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"engine": "dask"}, "engine: 'dask' is not allowed: it is pool or ray"),
        ({"address": "auto"}, "address: is of a Ray cluster, and the engine is pool"),
        ({"engine": "ray", "jobs": -1}, "jobs: -1 is not allowed"),
        ({"engine": "ray", "address": 7}, "address: 7 is not text"),
    ],
)
def test_what_is_no_engine_is_refused(settings: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        api.run(parse_config(RUNS, "many.yaml"), results=tmp_path / "r", **settings)
    assert not (tmp_path / "r").exists()


def test_without_ray_the_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'lora-cl\[ray\]'"):
        api.run(parse_config(RUNS, "many.yaml"), results=tmp_path, engine="ray", progress=False)
