"""Shared by all tests; its place also lets them import the helper modules beside it."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

LONG = ("test_project.py", "test_running_kill.py", "test_running_corruption.py", "test_plugins.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that no core waits for it at the end."""
    items.sort(key=lambda item: item.path.name not in LONG)
