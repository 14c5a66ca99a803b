"""The command that lists what a config can name, and says what one of them can be told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lora_cl.cli.answering import answering, tell
from lora_cl.cli.data import one_of, others
from lora_cl.cli.places import shipped_configs
from lora_cl.errors import ConfigError

if TYPE_CHECKING:
    from lora_cl.plugins import Parts

CONFIGS = "configs"
KINDS = ("methods", "benchmarks", "datasets", "models", CONFIGS)


def list_(
    what: Annotated[str, typer.Argument(help="methods, benchmarks, datasets, models or configs.")],
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One of them, with all its options.")
    ] = None,
) -> None:
    """List what a config can name; of one of them, say what it is and all that it can be told."""
    with answering():
        one_of("list", what, list(KINDS))
        if name is not None:
            tell("\n".join(_described(what, name)))
            return
        entries = _first_lines() if what == CONFIGS else _summaries(_parts(what))
        width = max(map(len, entries), default=0)
        for entry, summary in entries.items():
            tell(f"{entry:<{width}}  {summary}".rstrip())


def _described(what: str, name: str) -> Iterator[str]:
    """One entry of a list, for people; of a config, its text."""
    if what == CONFIGS:
        shipped = shipped_configs()
        one_of("list configs", name, list(shipped))
        return iter(shipped[name].read_text("utf-8").rstrip().splitlines())
    from lora_cl.config.reference import described

    parts = _parts(what)
    if not parts.knows(name):
        raise ConfigError(f"list {what}: {parts.unknown(name)}")
    return described(parts[name])


def _first_lines() -> dict[str, str]:
    """What each config says that it is."""
    files = shipped_configs().values()
    return {str(file): file.read_text("utf-8").splitlines()[0].lstrip("# ") for file in files}


def _parts(what: str) -> Parts[Any]:
    from lora_cl.config.reference import REGISTRIES

    return REGISTRIES[what]


def _summaries(parts: Parts[Any]) -> dict[str, str]:
    """A line for each part."""
    found = {name: str(part.summary) for name, part in parts.items()}
    for name, part in others(parts).items():
        package = part.__module__.partition(".")[0]
        found[name] = f"{getattr(part, 'summary', '')} (from {package})".strip()
    return found
