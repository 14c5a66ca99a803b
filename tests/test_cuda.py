"""On a GPU: the same runs, and no step waits for the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_cl.methods import METHODS
from lora_cl.records.folders import read_record
from lora_cl.running.runner import Where, run_one
from lora_cl.testing.runs import one_run
from lora_cl.training import loop

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def unguarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Between epochs and in checkpoints the loop may wait; within a step it may not."""

    def call(*arguments: Any) -> Any:
        torch.cuda.set_sync_debug_mode("default")
        try:
            return function(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    return call


@needs_cuda
@pytest.mark.parametrize("method", METHODS)
def test_no_step_waits_for_the_device(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = loop.fit
    steps = []

    def guarded(*arguments: Any, **options: Any) -> None:
        for name in ("order", "after_epoch", "after_step"):
            options[name] = unguarded(options[name])
        torch.cuda.set_sync_debug_mode("error")
        try:
            fit(*arguments, **options)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        steps.append(options["total_steps"])

    monkeypatch.setattr(loop, "fit", guarded)
    run = one_run(f"{method}: {{}}", "task")
    assert run is not None
    ended = run_one(run, Where(tmp_path, "cuda"))
    assert ended.status == "done", ended.message
    assert sum(steps) >= 1


@needs_cuda
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_learns_what_a_cpu_learns(method: str, tmp_path: Path) -> None:
    run = one_run(f"{method}: {{}}", "task")
    assert run is not None
    found = []
    for device in ("cpu", "cuda"):
        assert run_one(run, Where(tmp_path / device, device)).status == "done"
        result = read_record(tmp_path / device / run.folder).result
        found.append([value for value in result["accuracy_matrix"][-1] if value is not None])
    assert len(found[0]) == 3
    assert found[1] == pytest.approx(found[0], abs=0.1)
