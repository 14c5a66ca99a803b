"""Nodes of a Ray cluster that die while runs are under way, and 200 runs to tell what one costs."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from process_cases import command, wait_until
from ray_cases import Cluster, cluster, let_in

from lora_cl import api
from lora_cl.config import load_config
from lora_cl.records.folders import load_records
from lora_cl.testing.runs import log, outcome

KILLS = 20
KILLS_A_ROUND = 4
"""Fewer than the times a run may be lost before it is given up."""

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
    return tmp_path


@pytest.fixture
def nodes(place: Path) -> Iterator[Cluster]:
    with cluster(place) as made:
        yield made


@pytest.mark.soak
def test_twenty_nodes_die_and_every_run_is_done_once_with_the_same_bytes(
    place: Path, nodes: Cluster
) -> None:
    config, dice = place / "many.yaml", random.Random(0)
    config.write_text(RUNS.format(epochs=150, seeds=3))
    alone = api.run(load_config(config), results=place / "alone", jobs=0, progress=False)
    whole = {(record.label, record.seed): outcome(record.folder) for record in alone}
    assert len(whole) == 12
    kills, rounds, lost, slowest = 0, 0, 0, 0.0
    nodes.add()  # The one that always stays.
    while kills < KILLS:
        rounds += 1
        results = place / f"r{rounds}"
        arguments = ("--results", results, "--engine", "ray", "--address", nodes.address)
        with command("run", config, *arguments) as process:
            for _ in range(min(KILLS_A_ROUND, KILLS - kills)):
                start = time.monotonic()
                name = nodes.add()
                computing = wait_until(
                    lambda name=name: nodes.runs(name, "ray::_do") or process.poll() is not None,
                    120,
                )
                assert computing
                time.sleep(dice.random())
                in_time = process.poll() is None
                nodes.kill(name)
                if not in_time:
                    break
                kills += 1
                slowest = max(slowest, time.monotonic() - start)
            _, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
        records = load_records([results])
        assert [record.status for record in records] == ["done"] * 12
        for record in records:
            assert outcome(record.folder) == whole[record.label, record.seed]
            events = [event["event"] for event in log(record.folder)]
            assert events.count("done") == 1
            assert events.count("lost") == len(record.result["provenance"].get("lost", []))
            lost += events.count("lost")
        print(f"round {rounds}: {kills} nodes killed, {lost} runs lost, 12 equal", flush=True)
    print(f"{12 * rounds} runs, all with equal bytes; slowest kill {slowest:.1f} s")
    assert lost >= KILLS // 2


@dataclass(frozen=True)
class Costs:
    """What runs cost besides themselves, in seconds: until the first begins, between two on a core,
    and of the processor by the command itself for each."""

    start: float
    between: float
    command: float


@pytest.mark.soak
def test_what_a_run_costs_besides_itself(place: Path, nodes: Cluster) -> None:
    """200 runs of a moment on two cores: of one machine, of two nodes, of two that travel."""
    config = place / "many.yaml"
    nodes.add()
    nodes.add()
    ray = {"engine": "ray", "address": nodes.address}
    found = {
        "pool": _costs(config, place / "pool", jobs=2),
        "ray": _costs(config, place / "ray", **ray),
    }
    if os.geteuid() == 0:
        nodes.end("node1", "node2")
        (place / "far").mkdir()
        for _ in range(2):
            nodes.add(blind_to=place / "far")
        found["ray, out of sight"] = _costs(config, place / "far", **ray)
    for name, costs in found.items():
        print(
            f"{name}: {costs.start:.1f} s until the first run; for each run "
            f"{1000 * costs.between:.0f} ms between two on a core, "
            f"{1000 * costs.command:.1f} ms of the command's processor"
        )
        assert 0 < costs.between < 0.5
        assert 0 < costs.command < 0.1


def _costs(config: Path, results: Path, **settings: Any) -> Costs:
    """From 200 runs on two cores; what few cost is taken off the command's own time."""
    processor = {}
    for seeds in (5, 50):
        config.write_text(RUNS.format(epochs=1, seeds=seeds))
        begun, before = time.time(), time.process_time()
        records = api.run(
            load_config(config), results=results / str(seeds), progress=False, **settings
        )
        processor[len(records)] = time.process_time() - before
        assert {record.status for record in records} == {"done"}
    spans = sorted(_span(record.folder) for record in records)
    few, many = sorted(processor)
    assert (few, many) == (20, 200)
    middle = spans[few:-few]  # When both cores have work.
    each = 2 * (middle[-1][0] - middle[0][0]) / (len(middle) - 1)
    own = sum(end - start for start, end in middle) / len(middle)
    driver = (processor[many] - processor[few]) / (many - few)
    return Costs(spans[0][0] - begun, each - own, driver)


def _span(folder: Path) -> tuple[float, float]:
    """When a run began and ended."""
    times = {event["event"]: event["time"] for event in log(folder)}
    return times["run_started"], times["done"]
