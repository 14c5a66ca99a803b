"""Run folders made by hand, as the runner would leave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lora_cl.records.folders import Record
from lora_cl.records.results import write_result

LORA = [[0.9, None], [0.9, 0.8]]
FULL = [[0.9, None], [0.5, 0.7]]
JOINT = [[None, None], [0.95, 0.85]]


def result(
    label: str, seed: int, matrix: list[list[float | None]], **changes: Any
) -> dict[str, Any]:
    cost = {
        "trained_params_per_task": 1234567.0,
        "added_params_per_task": 500,
        "total_params": 2345678,
        "stored_bytes": 4096000,
        "train_seconds": 75.0,
        "eval_seconds": 1.5,
        "peak_memory_bytes": 123456789,
    }
    return {
        "schema_version": 1,
        "status": "done",
        "experiment": "digits",
        "label": label,
        "method": label,
        "scenario": "task",
        "benchmark": "split",
        "seed": seed,
        "hash": f"{seed:08x}",
        "config_hash": "c0ffee00",
        "n_tasks": len(matrix),
        "needs_task_id": False,
        "isolated": False,
        "accuracy_matrix": matrix,
        "untrained_accuracy": None,
        "cost": cost,
        "routing": None,
        "details": {},
        "error": None,
        "provenance": {},
    } | changes


def record(label: str, seed: int, matrix: list[list[float | None]], **changes: Any) -> Record:
    whole = result(label, seed, matrix, **changes)
    return Record(
        folder=Path(f"{whole['experiment']}/{label}/seed{seed}-{whole['hash']}"),
        experiment=whole["experiment"],
        label=whole["label"],
        method=whole["method"],
        scenario=whole["scenario"],
        benchmark=whole["benchmark"],
        seed=whole["seed"],
        status=whole["status"],
        result=whole,
    )


def write(root: Path, whole: dict[str, Any]) -> Path:
    """The folder of a run with this result, below ``root``."""
    folder = root / whole["experiment"] / whole["label"] / f"seed{whole['seed']}-{whole['hash']}"
    folder.mkdir(parents=True)
    config = {key: whole[key] for key in ("experiment", "label", "seed")}
    (folder / "config.yaml").write_text(json.dumps(config))
    (folder / "events.jsonl").write_text("")
    write_result(folder, whole)
    return folder
