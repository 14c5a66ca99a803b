"""Documents that do what they say: their blocks, in order, in one process."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from process_cases import ask

ROOT = Path(__file__).parent.parent


def blocks(document: Path) -> Iterator[tuple[str, str]]:
    """The kind and the text of each block of a shell, of Python or of YAML."""
    text = document.read_text("utf-8")
    return iter(re.findall(r"```(sh|python|yaml)\n(.*?)```", text, re.DOTALL))


def do_command(line: str, run: str, shorter: Sequence[str] = ()) -> None:
    """A command line of a document, ``$RUN`` and patterns of folders replaced; it must succeed and
    answer, or write. ``shorter`` is added where something is trained."""
    words = [word for part in shlex.split(line.replace("$RUN", run)) for word in _expanded(part)]
    assert words[0] == "lora-cl", line
    if words[1] in ("run", "tune"):
        words += shorter
    code, out, err = ask(*words[1:])
    assert code == 0, f"{line}\n{err}"
    assert bool(out) or {"-o", "--output"} & set(words), line


def do_python(block: str, names: dict[str, Any]) -> None:
    exec(compile(block, "a document", "exec"), names)


def _expanded(word: str) -> list[str]:
    return sorted(map(str, Path().glob(word))) if "seed0-*" in word else [word]
