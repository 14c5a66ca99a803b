"""What a node of a cluster does: one run, where its results belong or, if that is not to be seen
from there, beside; then the run folder travels."""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_cl.engines.workers import keep_memory, quiet_threads
from lora_cl.records.events import EVENTS
from lora_cl.records.layout import HOLDER, LOCK

if TYPE_CHECKING:
    from lora_cl.config import RunConfig
    from lora_cl.running.runner import Outcome, Where

TELL_SECONDS = 0.5

Tell = Callable[[bytes], None]
"""Hears what is new in a run's event log."""


@dataclass(frozen=True)
class Mark:
    """A file in the results directory: a node that reads the same there has the same directory."""

    path: Path
    word: str

    def is_seen(self) -> bool:
        with suppress(OSError):
            return self.path.read_text() == self.word
        return False


@dataclass(frozen=True)
class Ended:
    """How a run ended on a node, and its folder, unless that is where it belongs already."""

    outcome: Outcome
    folder: bytes | None = None


@dataclass(frozen=True)
class Command:
    """What the runs of a command share: where they belong, whether they are done anew, the folder
    that it was given in, and the versions of its process."""

    where: Where
    force: bool
    mark: Mark
    folder: str
    versions: dict[str, str]


def versions_here() -> dict[str, str]:
    """What must be the same on every node: else a run would not be the same run."""
    quiet_threads()
    from lora_cl.running.machine import code_version, versions

    found = {name: str(version) for name, version in versions().items() if "git" not in name}
    return found | {"code of lora-cl": code_version()}


def bring(runs: Sequence[RunConfig], data_dir: Path | None) -> None:
    """Fetches the data sets and weights that ``runs`` begin with, before several of them ask."""
    import torch

    from lora_cl.running.making import make_benchmark

    for run in runs:
        make_benchmark(run.parse(), run.seed, torch.device("cpu"), data_dir, run.content)


def do(run: RunConfig, command: Command, begun: bytes | None, tell: Tell) -> Ended:
    """Does one run; ``begun`` is what there is of its folder, for one that goes on elsewhere."""
    quiet_threads()
    keep_memory()
    from lora_cl.running.runner import run_one

    where = command.where
    if command.mark.is_seen():
        return Ended(run_one(run, where, command.force))
    with tempfile.TemporaryDirectory(prefix="lora-cl-") as place:
        folder = Path(place) / run.folder
        if begun is not None:
            unpack(begun, folder)
        with _telling(folder / EVENTS, tell):
            outcome = run_one(run, replace(where, results=Path(place)))
        return Ended(outcome, pack(folder))


def pack(folder: Path) -> bytes:
    """A run folder as one piece; b"" if there is none."""
    if not folder.is_dir():
        return b""
    with io.BytesIO() as piece:
        with tarfile.open(fileobj=piece, mode="w") as tar:
            for path in sorted(folder.iterdir()):
                if path.name not in (LOCK, HOLDER):
                    tar.add(path, path.name)
        return piece.getvalue()


def unpack(piece: bytes, folder: Path) -> None:
    """Puts what ``pack`` made into ``folder``; nothing outside of it."""
    folder.mkdir(parents=True, exist_ok=True)
    if piece:
        with tarfile.open(fileobj=io.BytesIO(piece)) as tar:
            tar.extractall(folder, filter="data")


@contextmanager
def _telling(log: Path, tell: Tell) -> Iterator[None]:
    """Tells what is new in ``log`` twice a second; the last of it comes with the folder."""
    over = threading.Event()
    told = log.stat().st_size if log.exists() else 0

    def tell_news() -> None:
        nonlocal told
        with suppress(OSError), log.open("rb") as file:
            file.seek(told)
            news = file.read()
            told += len(news)
            if news:
                tell(news)

    def watch() -> None:
        while not over.wait(TELL_SECONDS):
            tell_news()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def go_to(folder: str) -> None:
    """Paths in a config are from where the command was given, where that is there."""
    with suppress(OSError):
        os.chdir(folder)
