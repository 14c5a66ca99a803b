"""What the server of worker processes imports before it makes the first one."""

from __future__ import annotations

import atexit
import os
import sys
from types import TracebackType

import lora_cl.running.runner  # noqa: F401
from lora_cl.engines.workers import keep_memory


def _told_elsewhere(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """That no more processes can be made is for the command to say, in a line."""
    if not isinstance(error, OSError):
        sys.__excepthook__(kind, error, trace)


# The server has nothing to tidy up, and taking apart all that it imported would take a second.
if any("multiprocessing.forkserver" in word for word in sys.orig_argv):
    atexit.register(os._exit, 0)
    keep_memory()
    sys.excepthook = _told_elsewhere
