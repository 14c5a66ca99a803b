"""What `analyze` says of a run, against its weights and its record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from process_cases import ask

import lora_cl
from lora_cl.errors import MethodError
from lora_cl.records.folders import read_record
from lora_cl.testing.runs import run_done

CONFIG = """
name: analysis
benchmark: {{name: split, tasks: 3, dataset: {{name: synthetic, classes: 6, features: 12}}}}
model: {model}
train: {{epochs: 3, batch_size: 16, lr: 0.02}}
methods: {{it: {{method: {method}}}}}
"""
MLP = "{name: mlp, hidden: [10, 8]}"


def done(place: Path, method: str, model: str = MLP) -> Path:
    return run_done(CONFIG.format(method=method, model=model), place)


@pytest.mark.parametrize("method", ["independent", "full"])
def test_whole_changes_give_the_accuracies_on_record(method: str, tmp_path: Path) -> None:
    run = done(tmp_path, method)
    found = lora_cl.analyze(run, [1, 2, 12])
    last = read_record(run).result["accuracy_matrix"][-1]
    assert [cut.whole for cut in found.cuts] == last
    assert [cut.by_rank[2] for cut in found.cuts] == last  # 12 is all the rank there is.
    assert all(len(cut.by_rank) == 3 for cut in found.cuts)
    layers = {(one.task, one.layer) for one in found.layers}
    tasks = range(3) if method == "independent" else [2]
    assert layers == {(task, layer) for task in tasks for layer in ("linear1", "linear2")}
    assert len(found.layers) == len(layers)
    for one in found.layers:
        full = {"linear1": 10, "linear2": 8}[one.layer]
        assert one.full_rank == full
        assert 1.0 < one.effective_rank < full
        energies = [share for share in one.energy if share is not None]
        assert 0.0 < energies[0] < energies[1] < energies[2] == pytest.approx(1.0)
        assert one.norm**2 == pytest.approx(sum(s * s for s in one.singular_values), rel=1e-4)


def test_the_change_is_against_the_base_that_the_run_began_with(tmp_path: Path) -> None:
    """The base of `frozen` with the same seed is in its record; `independent` began there, too."""
    run, frozen = done(tmp_path, "independent"), done(tmp_path, "frozen")
    base = dict(lora_cl.load_run(frozen).network.backbone.named_parameters())
    method = lora_cl.load_run(run)
    found = {(one.task, one.layer): one.norm for one in lora_cl.analyze(run, [1]).layers}
    for (task, layer), norm in found.items():
        with method.view(task) as network:
            moved = network.backbone.get_parameter(f"{layer}.weight") - base[f"{layer}.weight"]
        assert norm == pytest.approx(float(torch.linalg.vector_norm(moved)), rel=1e-4)
    assert len(found) == 6


def test_the_command(tmp_path: Path) -> None:
    run = done(tmp_path, "full")
    code, out, err = ask("analyze", run, "--ranks", "4,1")
    assert (code, err) == (0, "")
    table, cuts = out.split("\n\n")
    assert table.splitlines()[0].split()[-6:] == ["energy", "in", "1", "energy", "in", "4"]
    *layers, mean = (line.split() for line in table.splitlines()[1:])
    of_the_weight = [float(line[4]) for line in layers]
    assert len(layers) == 2
    assert mean[0] == "mean"
    assert float(mean[1]) == pytest.approx(sum(of_the_weight) / 2, rel=0.02)
    assert cuts.splitlines()[1].split() == ["task", "0", "1", "4", "whole", "name"]
    assert [line.split()[0] for line in cuts.splitlines()[2:]] == ["0", "1", "2", "mean"]
    code, out, _ = ask("analyze", run, "--format", "json")
    assert code == 0
    assert json.loads(out)["ranks"] == [1, 2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("lora, rank: 2", "lora: what is analyzed is full and independent"),
        ("full, adapter: {name: lora, rank: 2}", "full with options of its own"),
        ("independent, hidden: [6]", "independent with options of its own"),
        ("ewc", "ewc: what is analyzed"),
    ],
)
def test_what_has_no_whole_change(method: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(MethodError, match=said):
        lora_cl.analyze(done(tmp_path, method))


@pytest.mark.parametrize("ranks", ["0", "a", "1,,2", "-1"])
def test_wrong_ranks(ranks: str, tmp_path: Path) -> None:
    code, out, err = ask("analyze", tmp_path, f"--ranks={ranks}")
    assert (code, out) == (2, "")
    assert f"--ranks {ranks}: is no list of numbers from 1" in err
