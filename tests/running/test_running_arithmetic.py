"""What a process did before changes no byte of a run, and is as it was afterwards."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from process_cases import ENVIRONMENT, python

from lora_cl.errors import ConfigError
from lora_cl.records.events import append_event
from lora_cl.running import arithmetic
from lora_cl.running.arithmetic import alone, computed_with, reproducible
from lora_cl.running.runner import Where, run_one
from lora_cl.testing.runs import TINY, one_run, outcome, runs_of

WIDE = ("model.hidden=[64, 64]", "train.epochs=1", "benchmark.dataset.features=64")


def settings() -> dict[int, Any]:
    """All that is settled, as it stands now."""
    now: dict[int, Any] = {}
    for number, (get, _, _) in enumerate(arithmetic._switches(1)):
        try:
            now[number] = get()
        except RuntimeError:  # Said in two ways that contradict each other.
            now[number] = "contradictory"
    return {**now, -1: torch.get_default_device(), -2: torch.is_grad_enabled()}


@contextmanager
def changed(put: Callable[[Any], Any], value: Any, back: Any) -> Iterator[None]:
    put(value)
    try:
        yield
    finally:
        put(back)


@contextmanager
def low_precision() -> Iterator[None]:
    before = arithmetic._precisions()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")
        arithmetic._set_precisions(before)


DISTURBANCES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "nothing": nullcontext,
    "precision": low_precision,
    "precision by backend": lambda: changed(
        lambda value: setattr(torch.backends.mkldnn.matmul, "fp32_precision", value), "bf16", "none"
    ),
    "kernels": lambda: changed(
        lambda value: setattr(torch.backends.mkldnn, "enabled", value), False, True
    ),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "dtype": lambda: changed(torch.set_default_dtype, torch.float64, torch.float32),
    "device": lambda: changed(torch.set_default_device, "meta", None),
    "device inside": lambda: torch.device("meta"),
    "denormals": lambda: changed(torch.set_flush_denormal, True, False),
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "anomalies": lambda: torch.autograd.set_detect_anomaly(True),
    "threads": lambda: changed(torch.set_num_threads, 2, 1),
    "memory": lambda: changed(
        lambda on: setattr(torch.utils.deterministic, "fill_uninitialized_memory", on), False, True
    ),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return done(tmp_path_factory.mktemp("undisturbed"))


def done(results: Path) -> dict[str, Any]:
    run = one_run("lora: {}", "task", *WIDE)
    assert run is not None
    assert run_one(run, Where(results)).status == "done"
    return outcome(results / run.folder)


@pytest.mark.parametrize("name", DISTURBANCES)
def test_what_a_process_has_set_changes_no_byte_and_stays_set(
    name: str, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    run = one_run("lora: {}", "task", *WIDE)
    assert run is not None
    before = settings()
    with DISTURBANCES[name]():
        set_by_user = settings()
        stream = torch.get_rng_state()
        assert run_one(run, Where(tmp_path)).status == "done"
        assert torch.equal(torch.get_rng_state(), stream)
        assert settings() == set_by_user
    assert settings() == before
    assert outcome(tmp_path / run.folder) == undisturbed


def test_each_disturbance_is_one() -> None:
    """Otherwise the test above would show nothing."""
    before = settings()
    same = []
    for name, disturbance in DISTURBANCES.items():
        with disturbance():
            if settings() == before:
                same.append(name)
    assert same == ["nothing", "autocast"]
    with torch.autocast("cpu"), reproducible(1):
        assert not torch.is_autocast_enabled("cpu")
    with torch.inference_mode(), reproducible(1):
        assert not torch.is_inference_mode_enabled()


def test_denormals_count() -> None:
    smallest = torch.tensor([1e-40])
    with changed(torch.set_flush_denormal, True, False):
        assert not (smallest * 1).any()
        with reproducible(1):
            assert (smallest * 1).all()
        assert not (smallest * 1).any()


def test_no_mode_costs_each_operation_its_time() -> None:
    """A default device is a mode that every call of torch goes through."""
    with reproducible(1):
        assert torch.overrides._get_current_function_mode_stack() == []  # type: ignore[attr-defined]


def in_a_thread(work: Callable[[], None]) -> BaseException | None:
    raised: list[BaseException] = []

    def caught() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=caught)
    thread.start()
    thread.join(timeout=30)
    assert not thread.is_alive()
    return raised[0] if raised else None


def test_two_threads_do_not_compute_at_once() -> None:
    def other() -> None:
        with reproducible(1):
            pass

    with reproducible(1, "a run"):
        error = in_a_thread(other)
        with reproducible(2, "a base within it"):
            assert torch.get_num_threads() == 2
    assert isinstance(error, ConfigError)
    assert "another thread of this process is at work on a run" in str(error)
    assert in_a_thread(other) is None


def test_short_work_of_another_thread_is_waited_for() -> None:
    order = []
    begun, go_on = threading.Event(), threading.Event()

    def short() -> None:
        with alone():
            begun.set()
            go_on.wait(10)
            order.append("the other")

    thread = threading.Thread(target=short)
    thread.start()
    assert begun.wait(10)
    threading.Timer(0.2, go_on.set).start()
    with alone():
        order.append("this one")
    thread.join()
    assert order == ["the other", "this one"]


ONE_RUN = """
import sys
from pathlib import Path
from lora_cl.report import differences
from lora_cl.running.runner import Where, run_one
from lora_cl.testing.runs import one_run
run = one_run("full: {}")
assert run_one(run, Where(Path(sys.argv[1]))).status == "done"
print(Path(sys.argv[1]) / run.folder)
if len(sys.argv) > 2:
    print(differences(Path(sys.argv[2]), Path(sys.argv[1]) / run.folder)[0])
"""


def test_what_cannot_be_set_is_in_the_record_and_told_by_diff(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in os.environ.keys() - ENVIRONMENT.keys():
        monkeypatch.delenv(name)  # Left by a command that ran in this process.
    run = one_run("full: {}")
    assert run is not None
    assert run_one(run, Where(tmp_path / "a")).status == "done"
    found = json.loads((tmp_path / "a" / run.folder / "result.json").read_bytes())
    here = found["provenance"]["arithmetic"]
    assert here["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert here["processor"]
    assert "MKL_CBWR" not in here
    monkeypatch.setitem(ENVIRONMENT, "MKL_CBWR", "COMPATIBLE")
    ended = python(ONE_RUN, tmp_path / "b", tmp_path / "a" / run.folder)
    assert ended.returncode == 0, ended.stderr
    folder, difference = ended.stdout.splitlines()
    there = json.loads((Path(folder) / "result.json").read_bytes())["provenance"]["arithmetic"]
    assert there == {**here, "MKL_CBWR": "COMPATIBLE"}
    assert difference == "environment: arithmetic.MKL_CBWR: nothing / 'COMPATIBLE'"


def test_a_run_that_went_on_with_other_arithmetic_says_so(tmp_path: Path) -> None:
    (run,) = runs_of(TINY.format(scenario="task", method="frozen: {}"))
    folder = tmp_path / run.folder
    folder.mkdir(parents=True)
    now = computed_with(torch.device("cpu"))
    append_event(folder, "run_started", computed_with={**now, "torch": "1.0", "MKL_CBWR": "AVX"})
    assert run_one(run, Where(tmp_path)).status == "done"
    told = json.loads((folder / "result.json").read_text())["provenance"]
    assert (told["sessions"], told["changed_between_sessions"]) == (2, ["MKL_CBWR", "torch"])
    assert run_one(run, Where(tmp_path), force=True).status == "done"
    told = json.loads((folder / "result.json").read_text())["provenance"]
    assert (told["sessions"], told["changed_between_sessions"]) == (1, [])
