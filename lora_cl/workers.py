"""Where worker processes come from: a server process that has imported all they need."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def start_early() -> None:
    """Lets the workers' imports begin now, beside those of the caller."""
    if sys.platform != "win32":
        multiprocessing.set_forkserver_preload(["lora_cl.preload"])
        with without_main():
            from multiprocessing import forkserver

            forkserver.ensure_running()


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
