"""The event log of a run: appended by the run, read by whoever looks on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

EVENTS = "events.jsonl"


def append_event(folder: Path, event: str, **fields: Any) -> None:
    """Adds a line to the run's event log; one that a crash tore before stays a line of its own."""
    line = json.dumps({"time": time.time(), "event": event, **fields})
    with (folder / EVENTS).open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else f"\n{line}"
        file.write(line.encode() + b"\n")


def read_events(folder: Path, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """The events from byte ``offset`` on, complete lines only, each with the offset after it.

    A line that is not JSON, such as one torn by a crash, is passed over.
    """
    with suppress(OSError), (folder / EVENTS).open("rb") as file:
        file.seek(offset)
        for line in file:
            offset += len(line)
            event = None
            with suppress(ValueError, RecursionError):
                event = json.loads(line) if line.endswith(b"\n") else None
            if isinstance(event, dict) and isinstance(event.get("event"), str):
                yield event, offset
