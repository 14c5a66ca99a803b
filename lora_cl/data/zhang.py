"""The text classification sets of Zhang, Zhao & LeCun 2015 (arXiv 1509.01626), in their CSV."""

from __future__ import annotations

import csv
from collections.abc import Hashable
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from lora_cl.data.source import Dataset, Source, tensor_checksum, text_rows, texts_unseen
from lora_cl.errors import DataError
from lora_cl.options import OptionsBase
from lora_cl.seeding import seed_for
from lora_cl.text import one_line

LIMIT_FIELD = 2**24
"""No text of these sets has so many characters; the csv module's own limit is too low for some."""


class ZhangOptions(OptionsBase):
    """So many of each class, drawn to train and to test with; null: all."""

    train_per_class: int | None = Field(default=1000, ge=1)
    """Texts drawn of each class to train with; null: all."""
    test_per_class: int | None = Field(default=500, ge=1)
    """Texts drawn of each class to test with; null: all."""


class Zhang(Source):
    """``root / folder / train.csv`` and ``test.csv``, without a header: the class from 1, then one
    or more columns of text, which are joined. They are put there by hand: nobody publishes their
    checksums. Which samples are drawn is the same for every run."""

    Options = ZhangOptions
    origin = "yours"
    class_names: ClassVar[tuple[str, ...]]
    folder: ClassVar[str]

    options: ZhangOptions

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def where(self, root: Path) -> Path | None:
        folder = root / self.folder
        there = all((folder / f"{part}.csv").is_file() for part in ("train", "test"))
        return folder if there else None

    def _key(self, root: Path) -> Hashable:
        files = sorted((root / self.folder).glob("*.csv"))
        return super()._key(root), *(
            (f.name, f.stat().st_mtime_ns, f.stat().st_size) for f in files
        )

    def outline(self, root: Path) -> tuple[Dataset, str]:
        if self.where(root) is not None:
            return self.load(root), ""
        return texts_unseen(self.name, self.class_names)

    def _load(self, root: Path) -> Dataset:
        folder = self.where(root)
        if folder is None:
            raise DataError(
                f"{self.name}: train.csv and test.csv of Zhang et al. 2015 are not in "
                f"{root / self.folder}; put them there, or let --data-dir or LORA_CL_DATA name a "
                f"folder that holds {self.folder}"
            )
        x, y = self._part(folder / "train.csv", self.options.train_per_class)
        x_test, y_test = self._part(folder / "test.csv", self.options.test_per_class)
        names, checksum = self.class_names, tensor_checksum(x, y, x_test, y_test)
        return Dataset(self.name, x, y, x_test, y_test, len(names), names, checksum, text=True)

    def _part(self, file: Path, per_class: int | None) -> tuple[Tensor, Tensor]:
        texts, labels = self._rows(file)
        kept = np.arange(len(labels))
        if per_class is not None:
            order = np.random.RandomState(seed_for(0, self.name, file.name) % 2**32)
            shuffled = order.permutation(len(labels))
            drawn = [shuffled[labels[shuffled] == k][:per_class] for k in range(self.classes)]
            kept = np.sort(np.concatenate(drawn))
        return text_rows([texts[row] for row in kept]), torch.from_numpy(labels[kept])

    def _rows(self, file: Path) -> tuple[list[str], np.typing.NDArray[np.int64]]:
        before = csv.field_size_limit(LIMIT_FIELD)
        texts: list[str] = []
        labels: list[int] = []
        try:
            with file.open(encoding="utf-8", newline="") as stream:
                for number, row in enumerate(csv.reader(stream), start=1):
                    if len(row) < 2 or not row[0].strip().isdecimal():
                        told = one_line(",".join(row), limit=40)
                        raise DataError(f"{file}: row {number} is no class and text: {told}")
                    label = int(row[0])
                    if not 1 <= label <= self.classes:
                        raise DataError(
                            f"{file}: row {number} has class {label}, not 1..{self.classes}"
                        )
                    text = " ".join(part.strip() for part in row[1:] if part.strip())
                    texts.append(text.replace("\\n", "\n"))
                    labels.append(label - 1)
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{file}: is no CSV in UTF-8: {one_line(error)}") from None
        finally:
            csv.field_size_limit(before)
        return texts, np.array(labels, dtype=np.int64)


class AgNews(Zhang):
    name = "ag-news"
    summary = "titles and first lines of news, 4 topics (put there by hand)"
    folder = "ag_news_csv"
    class_names = ("World", "Sports", "Business", "Sci/Tech")


class Amazon(Zhang):
    name = "amazon"
    summary = "product reviews, 1 to 5 stars (put there by hand)"
    folder = "amazon_review_full_csv"
    class_names = ("1 star", "2 stars", "3 stars", "4 stars", "5 stars")


class Yelp(Zhang):
    name = "yelp"
    summary = "reviews of businesses, 1 to 5 stars (put there by hand)"
    folder = "yelp_review_full_csv"
    class_names = Amazon.class_names


class DBpedia(Zhang):
    name = "dbpedia"
    summary = "titles and abstracts of Wikipedia, 14 kinds (put there by hand)"
    folder = "dbpedia_csv"
    class_names = (
        "Company", "EducationalInstitution", "Artist", "Athlete", "OfficeHolder",
        "MeanOfTransportation", "Building", "NaturalPlace", "Village", "Animal", "Plant",
        "Album", "Film", "WrittenWork",
    )  # fmt: skip


class Yahoo(Zhang):
    name = "yahoo"
    summary = "questions and answers, 10 topics (put there by hand)"
    folder = "yahoo_answers_csv"
    class_names = (
        "Society & Culture", "Science & Mathematics", "Health", "Education & Reference",
        "Computers & Internet", "Sports", "Business & Finance", "Entertainment & Music",
        "Family & Relationships", "Politics & Government",
    )  # fmt: skip
