"""`validation:` what is held out is measured beside the test set, and learned by no method."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_cl.benchmarks import Benchmark, permutation
from lora_cl.benchmarks.benchmark import of_classes
from lora_cl.benchmarks.holding_out import hold_out
from lora_cl.data import Dataset
from lora_cl.methods import METHODS
from lora_cl.running.evaluating import Evaluation
from lora_cl.running.making import make_benchmark
from lora_cl.running.runner import Outcome, Where, run_one
from lora_cl.seeding import seed_for
from lora_cl.testing.runs import one_run, outcome

CNN = ("model={name: cnn, channels: [4], hidden: 8}", "benchmark.dataset.shape=[1, 4, 3]")


def result_of(folder: Path, method: str, scenario: str, *overrides: str) -> dict[str, Any]:
    """What is left of a run, but for what tells the way it came about."""
    run = one_run(method, scenario, *overrides)
    assert run is not None
    ended = run_one(run, Where(folder))
    assert ended == Outcome("done"), ended.message
    found = outcome(folder / run.folder)
    return {"files": found["files"], **found["result"]}


def test_one_that_learns_nothing_has_no_such_matrix(tmp_path: Path) -> None:
    plain = result_of(tmp_path, "full: {}", "task")
    assert plain["validation_matrix"] is None
    # 20 samples a class, and one at least: 38 of 40 are left, which are 3 batches of 16 as before.
    assert result_of(tmp_path, "full: {}", "task", "validation=0.05")["validation_matrix"]


@pytest.mark.parametrize(
    ("method", "scenario"),
    [("full", "task"), ("full", "domain"), ("lora", "class"), ("joint", "task")],
)
def test_it_is_measured_where_the_test_set_is(method: str, scenario: str, tmp_path: Path) -> None:
    """Accuracies over 2 x 5 of 2 x 20 samples: tenths. Nothing of tasks to come."""
    found = result_of(tmp_path, f"{method}: {{}}", scenario, "validation=0.25")
    test, validation = found["accuracy_matrix"], found["validation_matrix"]
    measured = 0
    for i in range(3):
        for j in range(3):
            value = validation[i][j]
            assert (value is None) == (test[i][j] is None or j > i)
            if value is not None:
                assert value * 10 == pytest.approx(round(value * 10), abs=1e-9)
                measured += 1
    assert measured == (3 if method == "joint" else 6)


def test_it_is_of_the_network_as_it_is_at_the_time(tmp_path: Path) -> None:
    """Where a task's samples for training, test and validation are the same, so are the numbers."""
    make_task = Benchmark.make_task

    def alike(self: Benchmark, index: int, name: str, train: Any, test: Any) -> Any:
        task = make_task(self, index, name, train, test)
        return replace(task, test=task.validation)

    for method, scenario in (
        ("full: {}", "domain"),
        ("frozen: {}", "domain"),
        ("lora: {router: entropy}", "class"),
        ("lora: {router: prototype}", "domain"),
    ):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Benchmark, "make_task", alike)
            found = result_of(tmp_path, method, scenario, "validation=0.25")
        past = [[row[j] if j <= i else None for j in range(3)] for i, row in rows(found)]
        assert found["validation_matrix"] == past
        assert past[2][2] is not None


def rows(found: dict[str, Any]) -> list[tuple[int, list[float | None]]]:
    return list(enumerate(found["accuracy_matrix"]))


def test_a_class_with_one_sample_is_trained_with(tmp_path: Path) -> None:
    """Nothing is left to hold out, and what was not measured is null."""
    overrides = ("validation=0.5", "benchmark.dataset.train_per_class=1")
    found = result_of(tmp_path, "full: {}", "task", *overrides)
    assert found["validation_matrix"] == [[None] * 3] * 3
    assert found["accuracy_matrix"][2][0] is not None


def held_rows(*overrides: str) -> torch.Tensor:
    """The rows of the data set that a run with seed 0 holds out."""
    run = one_run("full: {}", "task", *overrides)
    assert run is not None
    benchmark = make_benchmark(run.parse(), 0, torch.device("cpu"), None)
    found = []
    for index in range(benchmark.n_tasks):
        data, classes = benchmark.task_data(index)
        rows, y = of_classes(data.y_train, classes)
        order = permutation(len(rows), seed_for(0, "validation", index))
        found.append(rows[hold_out(y, 0.25, order)[1]])
    return torch.cat(found)


@pytest.mark.parametrize(
    ("method", "scenario", "overrides"),
    [
        *((f"{method}: {{}}", "class", ()) for method in METHODS),
        ("frozen: {classifier: ncm}", "task", ()),
        ("replay: {memory: reservoir}", "domain", ()),
        ("lora: {router: mahalanobis}", "class", ()),
        ("full: {}", "task", CNN),
        ("joint: {}", "task", ("stream=true",)),
    ],
)
def test_no_method_sees_it(
    method: str, scenario: str, overrides: tuple[str, ...], tmp_path: Path
) -> None:
    """Other inputs held out change no bit but of their own accuracies."""
    overrides = ("validation=0.25", *overrides)
    right = result_of(tmp_path / "right", method, scenario, *overrides)
    held = held_rows(*overrides)
    assert len(held) == 30  # 5 of the 20 of each of 6 classes.
    with ruined(held):
        wrong = result_of(tmp_path / "wrong", method, scenario, *overrides)
    matrices = [found.pop("validation_matrix") for found in (right, wrong)]
    assert wrong == right
    assert matrices[0] != matrices[1]


@contextmanager
def ruined(held: torch.Tensor) -> Iterator[None]:
    """Every data set has the rows ``held`` turned upside down."""
    dataset = Benchmark.dataset

    def changed(self: Benchmark, index: int = 0) -> Dataset:
        data = dataset(self, index)
        x = data.x_train.clone()
        x[held] = -3 * x[held]
        return replace(data, x_train=x)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Benchmark, "dataset", changed)
        yield


def test_streamed_it_is_the_same(tmp_path: Path) -> None:
    found = [
        result_of(tmp_path / stream, "ewc: {}", "class", "validation=0.25", f"stream={stream}")
        for stream in ("false", "true")
    ]
    for one in found:
        del one["config"]
    assert found[0] == found[1]


def test_no_time_of_the_run_s_is_spent_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks: list[str | None] = []
    on_held_out = Evaluation._on_held_out

    def watched(self: Evaluation, task: Any) -> float | None:
        clocks.append(self.clock.current)
        return on_held_out(self, task)

    monkeypatch.setattr(Evaluation, "_on_held_out", watched)
    result_of(tmp_path, "full: {}", "task", "validation=0.25")
    assert clocks == [None] * 6
