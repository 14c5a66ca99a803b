"""Small runs, and what of a run folder must be the same after whatever happened on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lora_cl.config import RunConfig, parse_config
from lora_cl.errors import ConfigError
from lora_cl.running.preparation import prepare
from lora_cl.running.runner import Where, run_one

TINY = """
name: tiny
benchmark:
  name: split
  dataset: {{name: synthetic, classes: 6, features: 12, train_per_class: 20, test_per_class: 10}}
  tasks: 3
scenario: {scenario}
model: {{name: mlp, hidden: [10, 8]}}
train: {{epochs: 2, batch_size: 16, lr: 0.01}}
methods: {{{method}}}
checkpoint_seconds: 0
"""


def runs_of(text: str, *overrides: str) -> list[RunConfig]:
    return prepare(parse_config(text, "test.yaml", overrides), None, print)


def one_run(method: str, scenario: str = "task", *overrides: str) -> RunConfig | None:
    """The run of one method; None where it has no meaning in the scenario."""
    try:
        (run,) = runs_of(TINY.format(scenario=scenario, method=method), *overrides)
    except ConfigError as error:
        if "scenario" in str(error) or "incremental" in str(error):
            return None
        raise
    return run


def outcome(folder: Path) -> dict[str, Any]:
    """The record without what is measured by clock or commanded by the machine; all file bytes."""
    result = json.loads((folder / "result.json").read_bytes())
    del result["checksum"], result["provenance"]
    for name in ("train_seconds", "eval_seconds", "peak_memory_bytes", "seconds_to_95"):
        del result["cost"][name]
    del result["config"]["checkpoint_seconds"]
    files = [folder / "model.safetensors", *sorted((folder / "adapters").rglob("*"))]
    return {
        "result": result,
        "files": {
            str(file.relative_to(folder)): file.read_bytes() for file in files if file.is_file()
        },
    }


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


def run_done(text: str, results: Path) -> Path:
    """The folder of the one run of a config, which is done."""
    (run,) = runs_of(text)
    ended = run_one(run, Where(results))
    assert ended.status == "done", ended.message
    return results / run.folder
