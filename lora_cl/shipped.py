"""The configs that came with the package, by name."""

from __future__ import annotations

from pathlib import Path

TUNED, PUBLISHED = "tuned", "published"


def folder() -> Path:
    """Where they are: in the package, or beside it in a checkout."""
    here = Path(__file__).parent
    return here / "configs" if (here / "configs").is_dir() else here.parent / "configs"


def shipped(kind: str = "") -> dict[str, Path]:
    """Those of one kind, in the folder of that name; without one, the ordinary ones."""
    return {file.stem: file for file in sorted((folder() / kind).glob("*.yaml"))}
