"""What only makes a run faster, or lets it fit, changes no byte of what it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from run_cases import one_run, outcome
from safetensors import safe_open

from lora_cl.benchmarks import SCENARIOS
from lora_cl.data import streaming
from lora_cl.methods import METHODS
from lora_cl.running import session
from lora_cl.running.runner import Where, run_one

WIDER = ("benchmark.dataset.features=64", "model.hidden=[64, 32]")
"""Matrix products of a few columns round otherwise in other batches, and then are not cached."""

CASES = [(method, scenario) for method in METHODS for scenario in SCENARIOS]


def done(results: Path, method: str, scenario: str, *overrides: str) -> Path:
    run = one_run(f"{method}: {{}}", scenario, *WIDER, *overrides)
    assert run is not None
    ended = run_one(run, Where(results))
    assert ended.status == "done", ended.message
    return results / run.folder


def learned(folder: Path) -> dict[str, Any]:
    """Every tensor of a run by file and name, and its accuracies: all but the run's own name."""
    result = outcome(folder)["result"]
    found = {"matrix": result["accuracy_matrix"], "untrained": result["untrained_accuracy"]}
    for file in sorted(folder.rglob("*.safetensors")):
        with safe_open(file, "numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                key = f"{file.relative_to(folder)}:{name}"
                found[key] = tensors.get_tensor(name).tobytes()
    return found


def test_how_many_cases_there_are() -> None:
    assert len(CASES) == 18 * 3


@pytest.mark.parametrize(("method", "scenario"), CASES)
def test_streamed_inputs_give_the_same_bytes(
    method: str, scenario: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = outcome(done(tmp_path / "whole", method, scenario))
    calls = []
    ahead = streaming.Streamed.ahead
    monkeypatch.setattr(
        streaming.Streamed, "ahead", lambda self, indices: calls.append(1) or ahead(self, indices)
    )
    streamed = outcome(done(tmp_path / "streamed", method, scenario, "stream=true"))
    assert len(calls) >= 4  # At least three tasks are evaluated, and learned, maybe together.
    assert streamed["result"].pop("config") != whole["result"].pop("config")
    assert streamed == whole


@pytest.mark.parametrize(("method", "scenario"), CASES)
def test_a_cached_frozen_prefix_gives_the_same_bytes(
    method: str, scenario: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = []
    without_prefix = session.without_prefix

    def watched(network: Any, *arguments: Any) -> Any:
        shorter, x = without_prefix(network, *arguments)
        cached.append(shorter is not network)
        return shorter, x

    monkeypatch.setattr(session, "without_prefix", watched)
    with_cache = learned(done(tmp_path / "with", method, scenario))
    used = cached[:]
    without = learned(done(tmp_path / "without", method, scenario, "cache=false"))
    assert cached == used
    assert with_cache == without
    assert len(with_cache) >= 6
    if method in ("frozen", "lora", "dora", "qlora", "adalora"):
        assert used == [True] * 3


@pytest.mark.parametrize(("iterations", "cached"), [(2, False), (3, True)])
def test_in_less_than_an_epoch_the_prefix_of_samples_never_seen_is_not_computed(
    iterations: int, cached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task has 40 samples: three batches."""
    asked = []
    without_prefix = session.without_prefix
    monkeypatch.setattr(
        session, "without_prefix", lambda *given: asked.append(1) or without_prefix(*given)
    )
    train = f"train={{iterations: {iterations}, batch_size: 16}}"
    done(tmp_path, "lora", "task", train)
    assert len(asked) == (3 if cached else 0)
