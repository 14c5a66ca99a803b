"""Its place lets the tests import the helper module beside it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from plugin_cases import Write

from lora_cl import plugins
from lora_cl.benchmarks import BENCHMARKS
from lora_cl.data import DATASETS
from lora_cl.methods import METHODS
from lora_cl.models import BACKBONES


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes modules below the current directory; afterwards none of them was ever imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = set(sys.modules)

    def written(files: dict[str, str]) -> None:
        for name, text in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        forget()

    def forget() -> None:
        """What is imported next is read anew."""
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None) or tmp_path).startswith(
                str(tmp_path)
            ):
                del sys.modules[name]
        plugins._code_below.cache_clear()
        for parts in (METHODS, BENCHMARKS, DATASETS, BACKBONES):
            parts._found.clear()

    yield written
    forget()
