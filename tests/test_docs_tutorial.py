"""Every command, every config and every line of Python in docs/tutorial.md, in its order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from document_cases import ROOT, blocks, do_command, do_python

pytestmark = pytest.mark.commands

SHORTER = ("-o", "train.epochs=1", "-o", "seeds=1", "--jobs", "0")


# PEFT's own imports, not ours, decide whether something in them is deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_three_paths_lead_where_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    commands = programs = configs = 0
    for kind, block in blocks(ROOT / "docs" / "tutorial.md"):
        if kind == "yaml":
            name = block.removeprefix("# ").partition(":")[0]
            Path(name).write_text(block.replace("trials: 8", "trials: 2"), "utf-8")
            configs += 1
        elif kind == "python":
            do_python(block, names)
            programs += 1
        else:
            for line in block.splitlines():
                do_command(line, names.get("RUN", ""), SHORTER)
                commands += 1
        if found := list(Path("results/runs/tasks/lora").glob("seed0-*")):
            (names["RUN"],) = map(str, found)
    assert (commands, programs, configs) == (20, 3, 4)
    written = {"forgetting.html", "paper.html", "table.tex", "task-1", "four-tasks", "figures"}
    assert written <= {path.name for path in tmp_path.iterdir()}
