"""Where worker processes come from: a fork of this process, or a server that imported the same.

A fork costs milliseconds and shares what is imported and loaded, but copies one thread only: it
is whole where there is one thread, and no accelerator, whose driver does not survive a fork.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

THREADS = Path("/proc/self/task")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # As in glibc's malloc.h.


def start_early(device: str) -> None:
    """Lets the server's imports begin now, beside those of the caller, where it will be needed."""
    if sys.platform != "win32" and not _may_fork(device):
        multiprocessing.set_forkserver_preload(["lora_cl.engines.preload"])
        with without_main():
            from multiprocessing import forkserver

            forkserver.ensure_running()


def start_method(device: str) -> str:
    """How multiprocessing shall make the next worker: fork, forkserver or spawn."""
    if sys.platform == "win32":
        return "spawn"
    alone = THREADS.is_dir() and len(list(THREADS.iterdir())) == 1
    return "fork" if alone and _may_fork(device) else "forkserver"


def _may_fork(device: str) -> bool:
    if sys.platform != "linux":  # The system libraries of macOS are not made for it.
        return False
    return device == "cpu" or (device == "auto" and not any(Path("/dev").glob("nvidia*")))


def keep_memory() -> None:
    """Lets glibc reuse freed memory: the system would clear every page of it again, each step.

    Blocks over M_MMAP_THRESHOLD are unmapped when freed, and a free end of the heap over
    M_TRIM_THRESHOLD is given back; both are set out of reach. Elsewhere nothing is done.
    """
    if sys.platform == "linux":
        with suppress(AttributeError):  # Other C libraries have no mallopt.
            mallopt = ctypes.CDLL(None).mallopt
            for threshold in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
                mallopt(threshold, 2**30)


@contextmanager
def without_main() -> Iterator[None]:
    """Workers import this module, not the caller's script: that needs no guard, and is faster."""
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    main.__spec__ = None
    if file is not None:
        del main.__file__
    try:
        yield
    finally:
        main.__spec__ = spec
        if file is not None:
            main.__file__ = file


@contextmanager
def without_signals() -> Iterator[None]:
    """A process made meanwhile is deaf to SIGINT and SIGTERM; this one hears them afterwards."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
