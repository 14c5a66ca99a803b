"""Where records come from and answers go: folders that were named, the terminal, a file."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from lora_cl.cli.answering import say, tell
from lora_cl.errors import ConfigError, ResultsError
from lora_cl.records.folders import DEFAULT_RESULTS
from lora_cl.shipped import PUBLISHED, shipped

Folders = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[DIR]...", help="Results directories or run folders."),
]


def places(given: Sequence[Path] | None) -> list[Path]:
    """The folders that were named, ``~`` replaced, or the one of all results."""
    from lora_cl.options import user_path

    try:
        return [user_path(folder) for folder in given or [DEFAULT_RESULTS]]
    except ValueError as error:
        raise ConfigError(f"DIR: {error}") from None


def shipped_configs() -> dict[str, Path]:
    """The configs that came with the package, by name; published ones after the others."""
    return shipped() | shipped(PUBLISHED)


def config_file(given: Path) -> Path:
    """The config that was named: a file, or, by a bare name, one that came with the package.

    ConfigError for a name that one of these only resembles; other files are for who reads them.
    """
    from lora_cl.text import did_you_mean

    if given.name != str(given) or given.suffix or given.exists():
        return given
    known = shipped_configs()
    hint = "" if given.name in known else did_you_mean(given.name, known, cutoff=0.6)
    if hint:
        raise ConfigError(f"{given}: is no file and no config of the package{hint}")
    return known.get(given.name, given)


def config_files(given: Sequence[str]) -> list[Path]:
    """As ``config_file``, of several; a pattern stands for all that came with the package and fit.

    Raises ConfigError for a pattern that fits none.
    """
    from lora_cl.text import matching, one_line

    known = shipped_configs()
    found: list[Path] = []
    for name in given:
        if "*" not in name:
            found.append(config_file(Path(name)))
            continue
        fitting = matching(name, known)
        if not fitting:
            there = ", ".join(known)
            raise ConfigError(f"{one_line(name, 60)}: fits no config of the package: {there}")
        found += [known[one] for one in fitting]
    return found


def terminal() -> tuple[int | None, bool]:
    """How wide the terminal is and whether it shows color; None and False where there is none."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None, False
    color = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return shutil.get_terminal_size().columns, color


def deliver(text: str, output: Path | None) -> None:
    """Prints an answer on stdout, or puts it into the file ``output``."""
    if output is None:
        tell(text)
        return
    write(output, f"{text.rstrip()}\n".encode())
    say(f"written to {output}")


def write(output: Path, content: bytes) -> None:
    """Puts ``content`` into a file; ResultsError if that cannot be."""
    from lora_cl.records.output import write_output

    try:
        write_output(output, content)
    except OSError as error:
        raise ResultsError(f"{output}: cannot be written: {error.strerror}") from None
