"""Where tensors come from: bundled, fetched and verified, or your own files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from platformdirs import user_cache_dir
from pydantic import ValidationError

from lora_cl.data.cifar import Cifar10, Cifar100
from lora_cl.data.digits import Digits
from lora_cl.data.folder import Folder
from lora_cl.data.mnist import EmnistLetters, FashionMnist, KMnist, Mnist
from lora_cl.data.npz import Npz
from lora_cl.data.source import Dataset, Source, as_bytes, pixels
from lora_cl.data.svhn import Svhn
from lora_cl.data.synthetic import Synthetic
from lora_cl.data.text_files import TextFiles
from lora_cl.data.wordnet import WordNet
from lora_cl.data.zhang import AgNews, Amazon, DBpedia, Yahoo, Yelp
from lora_cl.errors import ConfigError
from lora_cl.options import OptionsBase, user_path
from lora_cl.plugins import Parts

__all__ = [
    "DATASETS",
    "Dataset",
    "Source",
    "as_bytes",
    "data_root",
    "make_source",
    "path_of",
    "pixels",
]

DATASETS: Parts[type[Source]] = Parts(
    "data set",
    "lora_cl.datasets",
    Source,
    OptionsBase,
    {
        "digits": Digits,
        "mnist": Mnist,
        "fashion-mnist": FashionMnist,
        "kmnist": KMnist,
        "emnist-letters": EmnistLetters,
        "cifar10": Cifar10,
        "cifar100": Cifar100,
        "svhn": Svhn,
        "synthetic": Synthetic,
        "npz": Npz,
        "folder": Folder,
        "wordnet": WordNet,
        "text": TextFiles,
        "ag-news": AgNews,
        "amazon": Amazon,
        "yelp": Yelp,
        "dbpedia": DBpedia,
        "yahoo": Yahoo,
    },
    texts=("name", "summary", "origin"),
)


def make_source(name: str, options: OptionsBase | None = None) -> Source:
    """The source called ``name`` with its own ``options``, or with all defaults.

    Raises ConfigError if there is no such data set, or if it cannot do without options.
    """
    source = DATASETS[name]
    if options is None:
        try:
            options = source.Options()
        except ValidationError as error:
            needed = ", ".join(str(problem["loc"][0]) for problem in error.errors())
            raise ConfigError(f"data set {name} needs the option {needed}") from error
    return source(options)


def path_of(option: str, path: str | Path) -> Path:
    """``user_path`` of what was given as ``option``; ConfigError where that is no path."""
    try:
        return user_path(path)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from None


def data_root(override: Path | None = None) -> Path:
    """The folder of the data sets: ``override`` (--data-dir), else the environment variable
    LORA_CL_DATA, else ``lora-cl`` in the platform's user cache directory, or, without a home, a
    folder among the temporary ones. It need not exist yet.

    Raises ConfigError if no folder can be called so.
    """
    if override is not None:
        return path_of("--data-dir", override)
    if chosen := os.environ.get("LORA_CL_DATA"):
        return path_of("LORA_CL_DATA", chosen)
    try:
        return user_path(user_cache_dir("lora-cl", appauthor=False))
    except (RuntimeError, ValueError):  # A user without a home, as in some containers.
        return Path(tempfile.gettempdir()) / f"lora-cl-{getattr(os, 'getuid', str)()}"
