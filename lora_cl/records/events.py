"""The event log of a run: appended by the run, read by whoever looks on."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from lora_cl.files import open_regular
from lora_cl.records.files import open_to_append
from lora_cl.records.plain_json import read_json

EVENTS = "events.jsonl"

MAX_LINE, MAX_LOG = 2**20, 2**26
"""Bytes: a longer line is no event, and no more of a log than this is read."""
MAX_JUNK = 1000
"""So many lines that are no events, and the rest is not read. A crash leaves one."""
LATEST = 1e11
"""No event is later, in seconds since 1970."""


def append_event(folder: Path, event: str, **fields: Any) -> None:
    """Adds a line to the run's event log; one that a crash tore before stays a line of its own.

    Raises ResultsError if the log is a link, a pipe or anything but a file.
    """
    line = json.dumps({"time": time.time(), "event": event, **fields})
    with open_to_append(folder / EVENTS) as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else f"\n{line}"
        file.write(line.encode() + b"\n")


class EventLog:
    """A log as it grows: every line of it is looked at once, within the limits above.

    ``offset`` is the byte up to which it was read.
    """

    def __init__(self, folder: Path, offset: int = 0) -> None:
        self.path = folder / EVENTS
        self.offset = offset
        self.junk = 0

    def size(self) -> int:
        """The bytes of the log as it is now, whether read or not."""
        try:
            return os.stat(self.path).st_size
        except OSError:
            return 0

    def new(self) -> Iterator[dict[str, Any]]:
        """The events that were appended since the last time, of complete lines only.

        A line that is none, such as one torn by a crash, is passed over; a log that cannot be
        read has none.
        """
        with suppress(OSError), open_regular(self.path) as file:
            file.seek(self.offset)
            for line in self._lines(file):
                event = _event(line)
                if event is not None:
                    yield event
                else:
                    self.junk += 1

    def _lines(self, file: BinaryIO) -> Iterator[bytes]:
        while self.offset < MAX_LOG and self.junk < MAX_JUNK:
            line = file.readline(MAX_LINE)
            if not line.endswith(b"\n") and len(line) < MAX_LINE:
                return
            self.offset += len(line)
            yield line


def read_events(folder: Path, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """The events from byte ``offset`` on, as ``EventLog.new``, each with the offset after it."""
    log = EventLog(folder, offset)
    for event in log.new():
        yield event, log.offset


def _event(line: bytes) -> dict[str, Any] | None:
    with suppress(ValueError, RecursionError):
        value = read_json(line) if line.endswith(b"\n") else None
        if isinstance(value, dict) and isinstance(value.get("event"), str):
            moment = value.get("time", 0)
            if type(moment) in (int, float) and 0 <= moment <= LATEST:
                return value
    return None


def logged_config(folder: Path) -> dict[str, Any]:
    """The resolved config that a run noted when it began; empty where its log says none."""
    config: dict[str, Any] = {}
    for event, _ in read_events(folder):
        if event["event"] == "run_started" and isinstance(event.get("config"), dict):
            config = event["config"]
    return config
