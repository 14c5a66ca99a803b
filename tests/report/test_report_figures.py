"""Plots: what is in them, which numbers, and that they are the same bytes each time."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from page_cases import LOSES, STEADY, log, seeds
from report_cases import JOINT, configured

from lora_cl.records.events import append_event
from lora_cl.records.metrics import forgetting
from lora_cl.report import aggregate, comparisons
from lora_cl.report.figures import FORMATS, overview, row_plots, write_figures
from lora_cl.report.figures.drawing import rendered
from lora_cl.report.series import band, forgetting_per_task, losses, pareto, seen_accuracy
from lora_cl.report.sweeps import sweeps

NAN = float("nan")


@pytest.fixture
def few(tmp_path: Path) -> Path:
    seeds(tmp_path / "runs", "keeps", [STEADY] * 2)
    seeds(tmp_path / "runs", "loses", [LOSES] * 2)
    return tmp_path / "runs"


def test_accuracy_over_the_tasks_seen() -> None:
    r = np.array([[0.9, NAN], [0.5, 0.7]])
    assert seen_accuracy(np.stack([r, r])).tolist() == [[0.9, 0.6], [0.9, 0.6]]
    joint = seen_accuracy(np.array([[NAN, NAN], [0.5, 0.7]]))
    assert np.isnan(joint[0])
    assert joint[1] == 0.6


def test_forgetting_per_task_averages_to_forgetting() -> None:
    r = np.random.default_rng(0).uniform(size=(5, 5))
    found = forgetting_per_task(r)
    by_hand = [max(r[i, j] for i in range(j, 4)) - r[4, j] for j in range(4)]
    assert found.tolist() == pytest.approx(by_hand)
    assert float(found.mean()) == pytest.approx(forgetting(r))
    assert forgetting_per_task(np.ones((3, 1, 1))).shape == (3, 0)


def test_a_band_is_the_interval_of_the_mean() -> None:
    found = band(np.array([[0.1, 1.0], [0.3, 1.0]]))
    assert found.mean.tolist() == [0.2, 1.0]
    assert found.half is not None
    # t = 12.7062 with one degree of freedom, standard deviation sqrt(0.02).
    assert found.half.tolist() == pytest.approx([12.7062047 * math.sqrt(0.02) / math.sqrt(2), 0.0])
    assert band(np.ones((1, 2))).half is None


def test_the_pareto_front() -> None:
    points = [(1.0, 0.5), (2.0, 0.4), (2.0, 0.8), (3.0, 0.8), (0.5, 0.1), (4.0, 0.9), (4.0, 0.9)]
    assert pareto(points) == [4, 0, 2, 5, 6]
    assert pareto([]) == []


def test_losses_of_a_run_that_was_resumed(tmp_path: Path) -> None:
    log(tmp_path, 2, 1.0)
    log(tmp_path, 1, 3.0)  # The first task's epochs were done again.
    for wrong in (NAN, "much", None, True):
        append_event(tmp_path, "epoch", task=5, fit=0, epoch=None, loss=wrong)
    found = losses(tmp_path)
    assert found.tasks == (0, 0, 1, 1)
    assert found.losses == (3.0, 1.5, 1.0, 0.5)
    assert losses(tmp_path / "nowhere").losses == ()


def test_sweeps_hold_all_else_equal() -> None:
    runs = [
        configured(f"{init}-{rank}", 0, method="lora", rank=rank, alpha=2 * rank, init=init)
        for init in ("kaiming", "gaussian")
        for rank in (4, 1, 2)
    ]
    runs += [configured("other", 0, method="lora", rank=8, alpha=16, init="kaiming", bias=True)]
    runs += [configured("full", 0, method="full")]
    (comparison,) = aggregate(runs)
    (found,) = sweeps(comparison.rows)
    assert (found.key, found.header) == ("method.rank", "rank")
    named = {curve.name: [row.label for row in curve.rows] for curve in found.curves}
    assert named == {
        "lora [init=kaiming]": ["kaiming-1", "kaiming-2", "kaiming-4"],
        "lora [init=gaussian]": ["gaussian-1", "gaussian-2", "gaussian-4"],
    }
    assert found.curves[0].values == (1.0, 2.0, 4.0)


def test_what_is_drawn_of_what(few: Path) -> None:
    (comparison,) = comparisons([few])
    names = [plot.name for plot in overview(comparison)]
    assert names == ["ranking", "over-time", "forgetting", "stored-bytes", "added-params-per-task"]
    assert [plot.name for plot in row_plots(comparison.rows[0])] == ["matrix", "tasks", "loss"]
    (joint,) = aggregate([configured("joint", 0, JOINT)])
    assert row_plots(joint.rows[0]) == []
    (failed,) = aggregate([configured("full", 0, changes={"status": "failed"})])
    assert overview(failed) == []


@pytest.mark.parametrize("format", FORMATS)
def test_a_plot_is_the_same_bytes_each_time(few: Path, format: str) -> None:  # noqa: A002
    (comparison,) = comparisons([few])
    starts = {"pdf": b"%PDF-", "svg": b"<?xml", "png": b"\x89PNG"}
    drawn = 0
    for plot in (overview(comparison)[3], row_plots(comparison.rows[0])[1]):
        content = rendered(plot, format)
        assert content.startswith(starts[format])
        assert content == rendered(plot, format)
        drawn += 1
    assert drawn == 2


def test_every_plot_has_its_files_and_its_caption(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_cl.report.figures.writing.FORMATS", ("svg",))
    folder = tmp_path / "figures"
    assert write_figures(comparisons([few]), folder) == 11
    captions = (folder / "captions.md").read_text("utf-8")
    stems = sorted(path.stem for path in folder.glob("*.svg"))
    assert stems == sorted(re.findall(r"^## (.+)$", captions, re.M))
    assert len(stems) == 11
    assert "digits-split-task-incremental-keeps-matrix" in stems
