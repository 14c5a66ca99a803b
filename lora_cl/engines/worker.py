"""What a worker process does, and the words that it and the pool exchange."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

from lora_cl.running.runner import Where, run_one
from lora_cl.streams import patient

GIVES_WAY, GO_ON = "gives way", "go on"
"""What a worker says between two steps, and the answer that it waits for."""


@dataclass(frozen=True)
class NoRoom:
    """What a worker says that cannot live here, such as under a limit on threads."""

    reason: str


def work(
    pipe: Connection,
    lifeline: Connection,
    inherited: Sequence[Connection],
    where: Where,
    force: bool,
    take_turns: bool,
) -> None:
    """Does the runs it is sent, until it is ended or the main process is gone.

    ``inherited`` are the main process's ends of all lines, of which a fork has copies.
    """
    # Sent to all processes at once, they are for the main process, which then ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stderr = patient(sys.stderr)
    for end in inherited:  # A line is dead only when the last copy of its other end is closed.
        end.close()
    try:
        threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    except RuntimeError as error:
        pipe.send(NoRoom(str(error)))
        return

    def give_way() -> None:
        try:
            pipe.send(GIVES_WAY)
            pipe.recv()
        except (EOFError, OSError):  # The main process is gone; the run is to be resumed.
            os._exit(1)

    while True:
        try:
            run = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(run_one(run, where, force, give_way if take_turns else None))


def _end_with_parent(lifeline: Connection) -> None:
    """The other end of ``lifeline`` closes when the main process is gone, however it went."""
    with suppress(EOFError, OSError):
        lifeline.recv_bytes()
    os._exit(1)


def why_ended(exitcode: int | None) -> str:
    """In words, for the record of the run that the worker was doing."""
    if exitcode is not None and exitcode < 0:
        name = signal.Signals(-exitcode).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"the worker process was ended by {name}{hint}"
    return f"the worker process ended by itself with exit code {exitcode}"
