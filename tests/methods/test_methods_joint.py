from __future__ import annotations

from pathlib import Path

import pytest
from method_cases import run_one
from private_head_cases import experiment

from lora_cl.records.events import read_events


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        ("iterations: 7", 3 * 7),
        # 3 tasks of 48 samples in batches of 16.
        ("epochs: 2", 2 * 9),
    ],
)
def test_it_takes_the_steps_of_all_tasks_at_the_end(
    duration: str, steps: int, tmp_path: Path
) -> None:
    record = run_one(experiment("joint", duration=duration), tmp_path)
    started = [e for e, _ in read_events(record.folder) if e["event"] == "fit_started"]
    assert [(event["task"], event["steps"]) for event in started] == [(2, steps)]
    matrix = record.result["accuracy_matrix"]
    assert matrix[:2] == [[None] * 3] * 2
    assert all(0.0 <= value <= 1.0 for value in matrix[2])
