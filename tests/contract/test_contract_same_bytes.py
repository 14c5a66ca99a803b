"""Where the frozen beginning of a network is computed once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lora_cl.running import session
from lora_cl.testing.contract import WIDER, Case


@pytest.mark.parametrize("method", ["frozen", "lora", "dora", "qlora", "adalora"])
def test_a_frozen_prefix_is_cached_for_every_task(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = []
    without_prefix = session.without_prefix

    def watched(network: Any, *arguments: Any) -> Any:
        shorter, x = without_prefix(network, *arguments)
        cached.append(shorter is not network)
        return shorter, x

    monkeypatch.setattr(session, "without_prefix", watched)
    case = Case(method, "", "task", None)
    case.tiny(tmp_path / "with", *WIDER)
    assert cached == [True] * 3
    case.tiny(tmp_path / "without", *WIDER, "cache=false")
    assert cached == [True] * 3


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
    Case("lora", "", "task", None).tiny(tmp_path, *WIDER, train)
    assert len(asked) == (3 if cached else 0)
