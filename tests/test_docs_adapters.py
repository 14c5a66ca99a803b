"""Every command and every line of Python in docs/adapters.md, in its order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from document_cases import ROOT, blocks, do_command, do_python

pytestmark = pytest.mark.commands


# PEFT's own imports, not ours, decide whether something in them is deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_page_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    commands = programs = 0
    for kind, block in blocks(ROOT / "docs" / "adapters.md"):
        if commands:
            (names["RUN"],) = map(str, Path("results/runs/smoke/lora").glob("seed0-*"))
        if kind == "yaml":
            Path("more.yaml").write_text(block, "utf-8")
        elif kind == "python":
            do_python(block, names)
            programs += 1
        else:
            for line in block.splitlines():
                do_command(line, names.get("RUN", ""))
                commands += 1
    assert (commands, programs) == (17, 4)
    assert {"whole", "plain", "merged", "smaller", "answers.json"} <= {
        path.name for path in tmp_path.iterdir()
    }
