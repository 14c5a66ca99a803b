"""Ctrl-C and SIGTERM, from the first moment of the command on; imports next to nothing."""

from __future__ import annotations

import os
import select
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

INTERRUPTED = 130


def leave_at_once(number: int, frame: FrameType | None) -> None:
    """A handler for when nothing is begun: a line, and out, whatever is half imported."""
    try:
        if select.select([], [2], [], 0)[1]:  # A reader that does not read keeps nobody here.
            os.write(2, b"interrupted\n")
    except (OSError, ValueError):
        pass
    os._exit(INTERRUPTED)


def raise_interrupt(number: int, frame: FrameType | None) -> None:
    """A handler for when there is something to tidy up."""
    raise KeyboardInterrupt


def listen(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Makes SIGINT and SIGTERM call ``handler``, unless they are ignored, as under nohup.

    Returns what they did before, to be given to ``signal.signal``.
    """
    before: dict[int, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, handler)
    return before
