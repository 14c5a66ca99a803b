"""Run folders made by hand, as the runner would leave them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lora_cl.records.events import append_event
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
        "base_params": 2000000,
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
        "classifier": "local",
        "accuracy_matrix": matrix,
        "untrained_accuracy": None,
        "cost": cost,
        "routing": None,
        "details": {},
        "error": None,
        "provenance": {},
    } | changes


def config(label: str, seed: int = 0, **options: Any) -> dict[str, Any]:
    """A resolved config as a run has it; ``options`` are the method's, or whole parts."""
    parts = {
        "name": "digits",
        "benchmark": {
            "tasks": 2,
            "dataset": {"name": "synthetic", "classes": 4},
            "class_order": "fixed",
            "name": "split",
        },
        "scenario": "task",
        "model": {"hidden": [4, 4], "name": "mlp"},
        "base": {"pretrain": None, "weights": None},
        "train": {"epochs": 1, "lr": 0.1},
    }
    others = {"seeds": [seed], "threads": 1, "checkpoint_seconds": 30.0}
    changed = {key: options.pop(key, value) for key, value in {**parts, **others}.items()}
    methods = {label: {"rank": 8, "method": label, **options}}
    return {**{key: changed[key] for key in parts}, "methods": methods, **changed}


def configured(
    label: str,
    seed: int,
    matrix: list[list[float | None]] = LORA,
    content: dict[str, str] | None = None,
    position: int | None = None,
    changes: dict[str, Any] | None = None,
    **options: Any,
) -> Record:
    """A record with its config; ``changes`` are of the result. The hash is of what makes it."""
    whole = config(label, seed, **options)
    content = {"benchmark.dataset": "sha256:" + "d" * 64} if content is None else content
    names = ("name", "methods", "seeds", "checkpoint_seconds")
    kept = {key: value for key, value in whole.items() if key not in names}
    made_of = json.dumps([kept, list(whole["methods"].values()), content], sort_keys=True)
    config_hash = hashlib.sha256(made_of.encode()).hexdigest()
    return record(
        label,
        seed,
        matrix,
        **{
            "experiment": whole["name"],
            "method": whole["methods"][label]["method"],
            "scenario": whole["scenario"],
            "benchmark": whole["benchmark"]["name"],
            "config": whole,
            "config_hash": config_hash,
            "content": content,
            "position": position,
            "hash": hashlib.sha256(f"{config_hash}{seed}".encode()).hexdigest(),
            **(changes or {}),
        },
    )


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
    (folder / "config.yaml").write_text(json.dumps(whole.get("config", {"name": "digits"})))
    append_event(folder, "run_started", config=whole.get("config", {}))
    write_result(folder, whole)
    return folder
