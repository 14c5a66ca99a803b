"""The command that writes a config to begin with."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from lora_cl.cli.answering import answering, say
from lora_cl.cli.data import one_of
from lora_cl.cli.places import write
from lora_cl.errors import ConfigError


def init(
    file: Annotated[
        Path, typer.Argument(metavar="[FILE]", help="Where to; must not be there yet.")
    ] = Path("config.yaml"),
    benchmark: Annotated[str, typer.Option(help="split, permuted, rotated or sequence.")] = "split",
    scenario: Annotated[str, typer.Option(help="task, domain or class.")] = "task",
) -> None:
    """Write a config with comments to begin with, which runs as it is."""
    with answering():
        from lora_cl.config.starting import BENCHMARKS, SCENARIOS, starting_config

        one_of("--benchmark", benchmark, list(BENCHMARKS))
        one_of("--scenario", scenario, list(SCENARIOS))
        if file.exists() or file.is_symlink():
            raise ConfigError(f"{file}: is there already, and is left as it is; name another file")
        named = shlex.quote(str(file))
        write(file, starting_config(benchmark, scenario, named).encode())
        say(f"written to {file}; next: lora-cl run {named}")
