"""Nodes of a Ray cluster that die while runs are under way, and 200 runs to tell what one costs."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from process_cases import command, wait_until
from ray_cases import cluster, let_in

from lora_cl import api
from lora_cl.config import load_config
from lora_cl.records.folders import load_records
from lora_cl.testing.runs import log, outcome

KILLS = 20

RUNS = """
name: many
benchmark: {{name: split, dataset: {{name: synthetic, classes: 6}}, tasks: 3}}
model: {{hidden: [12]}}
train: {{epochs: {epochs}, batch_size: 16}}
methods: {{full: , lora: {{rank: 2}}, ewc: , frozen: }}
seeds: {seeds}
checkpoint_seconds: 0.2
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    let_in(monkeypatch)
    (tmp_path / "r").mkdir()
    return tmp_path


@pytest.mark.soak
def test_twenty_nodes_die_and_every_run_is_done_once_with_the_same_bytes(place: Path) -> None:
    config, dice = place / "many.yaml", random.Random(0)
    config.write_text(RUNS.format(epochs=150, seeds=12))
    kills = 0
    with cluster(place) as nodes:
        nodes.add()  # The one that always stays.
        arguments = ("--results", place / "r", "--engine", "ray", "--address", nodes.address)
        with command("run", config, *arguments) as process:
            while kills < KILLS and process.poll() is None:
                before = _begun(place)
                name = nodes.add()
                wait_until(lambda before=before: _begun(place) > before + 1, 60)
                time.sleep(dice.random() * 2)
                nodes.kill(name)
                kills += 1
            _, err = process.communicate(timeout=1800)
    assert process.returncode == 0, err
    records = load_records([place / "r"])
    assert [record.status for record in records] == ["done"] * 48
    alone = api.run(load_config(config), results=place / "alone", jobs=0, progress=False)
    whole = {(record.label, record.seed): outcome(record.folder) for record in alone}
    lost = 0
    for record in records:
        assert outcome(record.folder) == whole[record.label, record.seed]
        events = [event["event"] for event in log(record.folder)]
        assert events.count("done") == 1
        lost += events.count("lost")
    print(f"{kills} nodes killed, {lost} runs lost and done again, {len(records)} runs equal bytes")
    assert kills == KILLS
    assert lost >= KILLS // 4


def _begun(place: Path) -> int:
    return len(list((place / "r").rglob("events.jsonl")))


@pytest.mark.soak
def test_what_a_run_costs_besides_itself(place: Path) -> None:
    """200 runs of a moment, on a cluster of one core and in one process."""
    config = place / "many.yaml"
    config.write_text(RUNS.format(epochs=1, seeds=50))
    seconds = {}
    with cluster(place) as nodes:
        nodes.add()
        settings = {"engine": "ray", "address": nodes.address, "jobs": None}
        for name, given in (("ray", settings), ("process", {"jobs": 0})):
            start = time.monotonic()
            records = api.run(load_config(config), results=place / name, progress=False, **given)
            seconds[name] = time.monotonic() - start
            assert [record.status for record in records] == ["done"] * 200
    extra = (seconds["ray"] - seconds["process"]) / 200
    print(f"200 runs: {seconds}, {1000 * extra:.1f} ms a run more on the cluster")
    assert extra < 0.5
