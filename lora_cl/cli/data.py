"""The commands about data sets, and what else lies in the cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lora_cl.cli.answering import answering, say, tell
from lora_cl.errors import ConfigError

if TYPE_CHECKING:
    from lora_cl.plugins import Parts

data_app = typer.Typer(help="Data sets: what there is, and fetching it.", no_args_is_help=True)
cache_app = typer.Typer(
    help="What is kept for other runs and can be made again.", no_args_is_help=True
)

DataDir = Annotated[
    Path | None,
    typer.Option(help="Where data sets are kept (default: LORA_CL_DATA or the user's cache)."),
]


@data_app.command("fetch")
def data_fetch(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Data sets.")],
    data_dir: DataDir = None,
) -> None:
    """Bring data sets into the cache, verified."""
    with answering():
        from lora_cl.data import data_root, make_source

        for name in names:
            place = make_source(name).fetch(data_root(data_dir), say)
            tell(f"{name}: {place}")


@data_app.command("list")
def data_list(data_dir: DataDir = None) -> None:
    """List the data sets, and which of them are there."""
    with answering():
        from lora_cl.data import DATASETS, data_root

        root = data_root(data_dir)
        sources = {**DATASETS, **others(DATASETS)}
        width = max(map(len, sources))
        for name, source in sources.items():
            state = {"bundled": "bundled", "yours": "yours"}.get(source.origin)
            if state is None:
                there = source(source.Options()).where(root)
                state = "there" if there else "to fetch"
            tell(f"{name:<{width}}  {state:<8}  {source.summary}")
        tell(f"cache: {root}")


@cache_app.command("list")
def cache_list(data_dir: DataDir = None) -> None:
    """Say what is kept, and how much it is."""
    with answering():
        from lora_cl.data import data_root
        from lora_cl.data.cache import KEPT, files_of
        from lora_cl.text import size

        root = data_root(data_dir)
        for kind, (_, what) in KEPT.items():
            sizes = [length for _, length in files_of(root, kind)]
            tell(f"{kind:<8}  {len(sizes):>5} files  {size(sum(sizes)):>8}  {what}")
        tell(f"cache: {root}")


@cache_app.command("clear")
def cache_clear(
    kinds: Annotated[
        list[str] | None, typer.Argument(metavar="[KIND]...", help="features, bases; or both.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Remove what is kept; data sets and published weights stay."""
    with answering():
        from lora_cl.data import data_root
        from lora_cl.data.cache import KEPT, clear
        from lora_cl.text import size

        for kind in kinds or KEPT:
            one_of("cache clear", kind, list(KEPT))
        for kind in kinds or KEPT:
            removed, freed = clear(data_root(data_dir), kind)
            tell(f"{kind}: {removed} files removed, {size(freed)}")


def others(parts: Parts[Any]) -> dict[str, Any]:
    """The parts of other packages; what is wrong with one goes to stderr."""
    found = parts.others()
    for part in found.values():
        if isinstance(part, Exception):
            say(f"error: {part}")
    return {name: part for name, part in found.items() if not isinstance(part, Exception)}


def one_of(key: str, value: str, allowed: list[str]) -> None:
    if value not in allowed:
        from lora_cl.text import did_you_mean

        hint = did_you_mean(value, allowed, cutoff=0.6)
        raise ConfigError(f"{key} {value}: is not one of {', '.join(allowed)}{hint}")
