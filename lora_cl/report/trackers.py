"""TensorBoard, Weights & Biases (offline) and MLflow, each as a ``tracking.Book``."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_cl.report.reading import Run
from lora_cl.report.tracking import name_of

MOST_PARAMETERS, LONGEST_VALUE = 100, 500
"""Of MLflow: so many in one request, and characters of each."""


class TensorBoard:
    """A folder of event files for each run, by experiment and label: ``tensorboard --logdir``."""

    def __init__(self, place: Path) -> None:
        import tensorboard  # noqa: F401

        self.place = place

    def _folder(self, run: Run) -> Path:
        return self.place.joinpath(*run.folder.resolve().parts[-3:])

    def has(self, run: Run) -> bool:
        folder = self._folder(run)
        return folder.is_dir() and any(folder.glob("events.out.tfevents.*"))

    def page(self, run: Run) -> _TensorBoardPage:
        return _TensorBoardPage(self._folder(run))


class _TensorBoardPage:
    def __init__(self, folder: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder.mkdir(parents=True, exist_ok=True)
        self.writer = EventFileWriter(str(folder))
        self.last = (0, 0.0)

    def values(self, values: Mapping[str, float], step: int, moment: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        told = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self.writer.add_event(Event(wall_time=moment, step=step, summary=Summary(value=told)))
        self.last = (step, moment)

    def close(self, run: Run, summary: Mapping[str, float]) -> None:
        self.values({f"summary/{name}": value for name, value in summary.items()}, *self.last)
        self.writer.close()


class WandB:
    """Offline runs, one for each of ours; `wandb sync` sends them where a person wants them."""

    def __init__(self, place: Path) -> None:
        os.environ["WANDB_ERROR_REPORTING"] = "false"
        import wandb

        self.wandb: Any = wandb
        self.place = place

    def has(self, run: Run) -> bool:
        return any(self.place.glob(f"wandb/offline-run-*-{_id(run)}"))

    def page(self, run: Run) -> _WandBPage:
        self.place.mkdir(parents=True, exist_ok=True)
        return _WandBPage(
            self.wandb.init(
                project=run.experiment,
                group=run.label,
                name=name_of(run),
                id=_id(run),
                dir=str(self.place),
                config={**run.options, "label": run.label, "seed": run.seed},
                mode="offline",
                reinit="create_new",
                settings=self.wandb.Settings(
                    silent=True, console="off", x_disable_stats=True, disable_git=True
                ),
            )
        )


class _WandBPage:
    def __init__(self, page: Any) -> None:
        self.page = page

    def values(self, values: Mapping[str, float], step: int, moment: float) -> None:
        self.page.log({**values, "epoch": step, "time": moment})

    def close(self, run: Run, summary: Mapping[str, float]) -> None:
        self.page.summary.update({**summary, "status": run.status})
        self.page.finish(exit_code=0 if run.done else 1)


class MLflow:
    """A folder ``mlruns``: ``mlflow ui --backend-store-uri mlruns``.

    The skinny package has no database, and asks whoever wants files to say so.
    """

    def __init__(self, place: Path) -> None:
        os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        from mlflow import MlflowClient

        place.mkdir(parents=True, exist_ok=True)
        self.client: Any = MlflowClient(tracking_uri=(place / "mlruns").resolve().as_uri())
        self.experiments: dict[str, str] = {}

    def _experiment(self, run: Run) -> str:
        if run.experiment not in self.experiments:
            found = self.client.get_experiment_by_name(run.experiment)
            id_ = found.experiment_id if found else self.client.create_experiment(run.experiment)
            self.experiments[run.experiment] = id_
        return self.experiments[run.experiment]

    def has(self, run: Run) -> bool:
        query = f"tags.`lora_cl.folder` = '{_id(run)}'"
        return bool(self.client.search_runs([self._experiment(run)], query, max_results=1))

    def page(self, run: Run) -> _MLflowPage:
        tags = {"lora_cl.folder": _id(run), "label": run.label, "seed": str(run.seed)}
        made = self.client.create_run(self._experiment(run), run_name=name_of(run), tags=tags)
        return _MLflowPage(self.client, made.info.run_id)


class _MLflowPage:
    def __init__(self, client: Any, run_id: str) -> None:
        self.client, self.run_id = client, run_id
        self.last = (0, 0.0)

    def values(self, values: Mapping[str, float], step: int, moment: float) -> None:
        from mlflow.entities import Metric

        told = [Metric(name, value, int(1000 * moment), step) for name, value in values.items()]
        self.client.log_batch(self.run_id, metrics=told)
        self.last = (step, moment)

    def close(self, run: Run, summary: Mapping[str, float]) -> None:
        from mlflow.entities import Param

        texts = {key: json.dumps(value)[:LONGEST_VALUE] for key, value in run.options.items()}
        told = [Param(key, text) for key, text in texts.items()]
        for start in range(0, len(told), MOST_PARAMETERS):
            self.client.log_batch(self.run_id, params=told[start : start + MOST_PARAMETERS])
        self.values(summary, *self.last)
        self.client.set_terminated(self.run_id, "FINISHED" if run.done else "FAILED")


def _id(run: Run) -> str:
    """What names the run among all others, in letters that every tracker takes."""
    return re.sub(r"[^\w.+-]", "_", "-".join((run.label, run.folder.resolve().name)))
