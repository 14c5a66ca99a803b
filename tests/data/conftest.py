from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _loopback_is_reached_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
