"""Where worker processes come from: a fork of this process, or a server that imported the same.

A fork costs milliseconds and shares what is imported and loaded, but copies one thread only: it
is whole where there is one thread, and no accelerator, whose driver does not survive a fork.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

THREADS = Path("/proc/self/task")
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # As in glibc's malloc.h.
_starting = threading.Lock()  # What starting changes for a moment belongs to the whole process.

COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""How OpenMP's threads wait for one another, where a user has said it."""


def quiet_threads() -> None:
    """Keeps libraries that are imported from now on from fighting over the cores.

    They start no threads that nobody asked for, and those of a run sleep while they wait. By
    default they spin for milliseconds at every barrier, of which a step has dozens: beside any
    other process a run of two threads then takes 30 times as long.
    """
    os.environ.update(_quiet())


def _quiet() -> dict[str, str]:
    quiet = {name: "1" for name in COUNTS if name not in os.environ}
    if _spinning():
        quiet["OMP_WAIT_POLICY"] = "PASSIVE"
    return quiet | {"OMP_DYNAMIC": "FALSE"}  # With fewer threads than asked for, sums differ.


def _spinning() -> bool:
    return not any(name in os.environ for name in WAITING)


def start_early(device: str) -> None:
    """Lets the server's imports begin now, beside those of the caller, where it will be needed."""
    if sys.platform != "win32" and not _may_fork(device):
        # Where no process can be started, the engine finds out and does without.
        with _starting, suppress(OSError), without_main():
            _ensure_server()


def _ensure_server() -> None:
    """The server is deaf to SIGINT and SIGTERM, and so is every worker it makes."""
    from multiprocessing import forkserver, resource_tracker

    multiprocessing.set_forkserver_preload(["lora_cl.engines.preload"])
    resource_tracker.ensure_running()  # Begun within, it would let the signals through again.
    with _without_signals():
        forkserver.ensure_running()


def start_method(device: str, threads: int = 1) -> str:
    """How multiprocessing shall make the next worker: fork, forkserver or spawn.

    What a library has read from the environment a fork cannot change: how its threads wait.
    """
    if sys.platform == "win32":
        return "spawn"
    alone = THREADS.is_dir() and len(list(THREADS.iterdir())) == 1
    whole = alone and _may_fork(device) and not (threads > 1 and _spinning())
    return "fork" if whole else "forkserver"


def start(process: Any, method: str) -> None:
    """Starts a worker, deaf to SIGINT and SIGTERM. Raises OSError or EOFError if there is no room.

    A fork is born deaf; waiting for the server, which may still import, can be interrupted.
    """
    with _starting, without_main():
        if method == "fork":
            with _without_signals():
                process.start()
            return
        before = {name: os.environ.get(name) for name in _quiet()}
        os.environ.update(_quiet())
        try:
            if method == "forkserver":
                _ensure_server()
            process.start()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


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
def _without_signals() -> Iterator[None]:
    """A process made meanwhile is deaf to SIGINT and SIGTERM; this one hears them afterwards."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
