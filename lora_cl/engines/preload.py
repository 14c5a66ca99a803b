"""What the server of worker processes imports before it makes the first one."""

from __future__ import annotations

import atexit
import os
import sys

import lora_cl.running.runner  # noqa: F401
from lora_cl.engines.workers import keep_memory

# The server has nothing to tidy up, and taking apart all that it imported would take a second.
if any("multiprocessing.forkserver" in word for word in sys.orig_argv):
    atexit.register(os._exit, 0)
    keep_memory()
