"""The reference page, ``docs/reference.md``: every key that a config can have, from the code.

``python -m lora_cl.config.reference > docs/reference.md`` writes it; a test compares.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from lora_cl.benchmarks import BENCHMARKS
from lora_cl.config.describing import Option, options
from lora_cl.config.expected import CellOptions, ExpectOptions
from lora_cl.config.model import BaseOptions, PretrainOptions
from lora_cl.config.study import ConfigFile
from lora_cl.config.train import TrainOptions
from lora_cl.data import DATASETS
from lora_cl.methods import METHODS
from lora_cl.methods.shared import LowRankOptions
from lora_cl.models import BACKBONES
from lora_cl.plugins import Parts

HEAD = """# Reference

Every key of a config: its default, what is allowed, and what it means. This page is generated from
the code, `python -m lora_cl.config.reference > docs/reference.md`; `lora-cl list methods lora` says
the same of one part, and `lora-cl schema` tells it to an editor. Formulas, and when to use what,
are in [methods.md](methods.md), [models.md](models.md) and [data.md](data.md).
"""
REGISTRIES: dict[str, Parts[Any]] = {
    "benchmarks": BENCHMARKS,
    "datasets": DATASETS,
    "models": BACKBONES,
    "methods": METHODS,
}
"""By the names of `lora-cl list`."""
TITLES = {"datasets": "Data sets"}


def reference() -> str:
    """The whole page."""
    parts = [HEAD, "## The config\n", table(options(ConfigFile))]
    for title, model in (
        ("`train`", TrainOptions),
        ("`base`", BaseOptions),
        ("`base.pretrain`", PretrainOptions),
        ("`adapter`", LowRankOptions),
        ("`expect`", ExpectOptions),
        ("`expect.cells.LABEL`", CellOptions),
    ):
        parts += [f"### {title}\n", _line(model), table(options(model))]
    for kind, registry in REGISTRIES.items():
        parts.append(f"## {TITLES.get(kind, kind.capitalize())}\n")
        for name, part in registry.items():
            parts.append(f"### `{name}`\n")
            parts.append(f"{_sentence(part.summary)}\n")
            parts.append(table(options(part.Options)))
    return "\n".join(parts)


def table(found: Sequence[Option]) -> str:
    """Options as a table in markdown; a line where there are none."""
    if not found:
        return "It has no options.\n"
    lines = ["| option | default | allowed | meaning |", "|---|---|---|---|"]
    for one in found:
        default = "required" if one.default is None else f"`{one.default}`"
        cells = (f"`{one.name}`", default, one.allowed, one.meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def described(part: Any) -> Iterator[str]:
    """A part for a terminal: what it is, whose it is, and its options, a line or two each."""
    yield _sentence(str(getattr(part, "summary", "")))
    for text in (getattr(inspect.getmodule(part), "__doc__", None), part.__doc__):
        if text:
            yield from ("", *inspect.cleandoc(text).replace("``", "").splitlines())
    found = options(part.Options)
    yield from ("", "options:" if found else "no options")
    for one in found:
        default = "required" if one.default is None else f"default {one.default}"
        yield f"  {one.name}: {one.allowed.replace('`', '')}; {default}"
        if one.meaning:
            yield f"      {one.meaning.replace('`', '')}"


def _line(model: type[Any]) -> str:
    """The first paragraph of the docstring."""
    return " ".join(inspect.cleandoc(model.__doc__ or "").partition("\n\n")[0].split()) + "\n"


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith(".") else f"{text}."


if __name__ == "__main__":
    sys.stdout.write(reference())
