"""Every command and every line of Python in docs/adapters.md, in its order."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from process_cases import ask

ROOT = Path(__file__).parent.parent


# PEFT's own imports, not ours, decide whether something in them is deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_page_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "adapters.md").read_text("utf-8")
    blocks = re.findall(r"```(sh|python|yaml)\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    commands = programs = 0
    for kind, block in blocks:
        if commands:
            (names["RUN"],) = map(str, Path("results/runs/smoke/lora").glob("seed0-*"))
        if kind == "yaml":
            Path("more.yaml").write_text(block, "utf-8")
            continue
        if kind == "python":
            exec(compile(block, "adapters.md", "exec"), names)
            programs += 1
            continue
        for line in block.splitlines():
            words = shlex.split(line.replace("$RUN", names.get("RUN", "")))
            if words[1] == "analyze":
                (words[2],) = map(str, Path().glob(words[2]))
            assert words[0] == "lora-cl"
            code, out, err = ask(*words[1:])
            assert code == 0, f"{line}\n{err}"
            written = "-o" in words
            assert bool(out) or written, line
            commands += 1
    assert (commands, programs) == (17, 4)
    assert {"whole", "plain", "merged", "smaller", "answers.json"} <= {
        path.name for path in tmp_path.iterdir()
    }
