"""Event logs in trackers: read back by the trackers themselves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from page_cases import STEADY, seeds
from process_cases import ask, finished, python

from lora_cl.records.events import append_event
from lora_cl.report.tracking import TRACKERS

READ_TENSORBOARD = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
read = EventAccumulator(sys.argv[1]); read.Reload()
print(json.dumps({t: [(e.step, e.value) for e in read.Scalars(t)] for t in read.Tags()["scalars"]}))
"""
READ_MLFLOW = """
import json, os, sys
os.environ["MLFLOW_ALLOW_FILE_STORE"] = os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
from pathlib import Path
from mlflow import MlflowClient
client = MlflowClient(tracking_uri=Path(sys.argv[1]).resolve().as_uri())
(experiment,) = client.search_experiments(filter_string="name = 'digits'")
(run,) = client.search_runs([experiment.experiment_id])
assert run.info.status == "FINISHED", run.info.status
assert run.data.params["method.rank"] == "8"
found = {}
for name in run.data.metrics:
    history = client.get_metric_history(run.info.run_id, name)
    found[name] = [(one.step, one.value) for one in history]
print(json.dumps(found))
"""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A run of three tasks and six epochs, two of which were done twice."""
    seeds(tmp_path / "r", "keeps", [STEADY])
    (folder,) = (tmp_path / "r").glob("*/*/seed*")
    append_event(folder, "epoch", task=2, fit=0, epoch=2, loss=0.5)
    append_event(folder, "evaluated", task=0, accuracies=[0.9])
    append_event(folder, "evaluated", task=1, accuracies=[0.9, 0.8])
    append_event(folder, "evaluated", task=2, accuracies=[None, "x", 0.7])
    return tmp_path / "r"


def check(found: dict[str, list[list[float]]], prefix: str = "") -> None:
    losses = [(i + 1, pytest.approx(1 / (1 + i % 2))) for i in range(6)]
    assert [tuple(point) for point in found["loss"]] == losses
    assert found["accuracy/task-000"] == [[6, pytest.approx(0.9)], [6, pytest.approx(0.9)]]
    assert found["accuracy/seen"] == [[6, pytest.approx(0.9)], [6, pytest.approx(0.85)]]
    assert found[f"{prefix}average_accuracy"] == [[6, pytest.approx(0.8)]]
    assert found[f"{prefix}stored_bytes"] == [[6, 4096000]]


def test_tensorboard(runs: Path, tmp_path: Path) -> None:
    place = tmp_path / "t"
    code, out, err = ask("log-to", "tensorboard", runs, "--to", place, "--follow")
    assert (code, out, err) == (0, f"tensorboard: 1 runs written to {place}, 0 were there\n", "")
    (log,) = place.rglob("events.out.tfevents.*")
    assert log.parent.relative_to(place) == next(runs.glob("*/*/seed*")).relative_to(runs)
    check(json.loads(python(READ_TENSORBOARD, log.parent).stdout), "summary/")
    content = log.read_bytes()
    assert ask("log-to", "tensorboard", runs, "--to", place)[1].endswith("0 runs written to "
        f"{place}, 1 were there\n")  # fmt: skip
    assert [path.read_bytes() for path in place.rglob("events.out*")] == [content]


@pytest.mark.slow
def test_mlflow(runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    place = tmp_path / "m"
    assert finished("log-to", "mlflow", runs, "--to", place)[0] == 0
    done = python(READ_MLFLOW, place / "mlruns")
    assert done.returncode == 0, done.stderr
    check(json.loads(done.stdout))


@pytest.mark.slow
def test_wandb(runs: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    place = tmp_path / "w"
    for written, there in ((1, 0), (0, 1)):
        code, out, _ = finished("log-to", "wandb", runs, "--to", place)
        assert (code, out) == (0, f"wandb: {written} runs written to {place}, {there} were there\n")
    (file,) = place.rglob("*.wandb")
    assert b"accuracy/task-000" in file.read_bytes()


def test_an_unknown_tracker_and_a_missing_one(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = ask("log-to", "tensorbord", runs)
    assert (code, out) == (2, "")
    assert "(did you mean 'tensorboard'?)" in err
    for name in TRACKERS:
        monkeypatch.setitem(sys.modules, name, None)
        code, out, err = ask("log-to", name, runs)
        assert (code, out) == (2, "")
        assert err == f"error: {name} is not installed: pip install 'lora-cl[trackers]'\n"
