"""Shared by all tests; its place also lets them import the helper modules beside it."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
