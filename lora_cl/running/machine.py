"""What a run ran on: device, versions, the project's commit, peak memory."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from lora_cl.errors import ConfigError, ResultsError
from lora_cl.plugins import sources_digest
from lora_cl.text import one_line


def resolve_device(name: str) -> torch.device:
    """``auto`` is cuda where there is one, else cpu; of several, cuda:1 is the second.

    ConfigError if ``name`` is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    kind, colon, number = name.partition(":")
    told = f"--device {one_line(name, limit=40)}"
    if kind not in there:
        raise ConfigError(f"{told}: is not one of auto, cpu, cuda, mps")
    if colon and not (number.isascii() and number.isdecimal() and len(number) < 4):
        raise ConfigError(f"{told}: after the colon stands a number, as in cuda:0")
    if int(number or 0) >= there[kind]:
        names = {k: k if count == 1 else f"{k}:0 to {k}:{count - 1}" for k, count in there.items()}
        here = ", ".join(names[kind] for kind, count in there.items() if count)
        raise ConfigError(f"{told}: there is none here; there is {here}")
    return torch.device(kind, int(number)) if colon and kind == "cuda" else torch.device(kind)


@lru_cache(maxsize=1)
def versions() -> dict[str, Any]:
    """Versions of everything that can change a number, and the project's commit if known."""
    packages: dict[str, str | None] = {}
    for name in ("lora-cl", "torch", "torchvision", "numpy", "safetensors", "scikit-learn"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    commit = _git("rev-parse", "HEAD")
    dirty = _git("status", "--porcelain", "--untracked-files=no") if commit else None
    return {
        "python": platform.python_version(),
        **packages,
        "git_commit": commit,
        "git_dirty": None if dirty is None else bool(dirty),
    }


ROOMS = ("adapters", "benchmarks", "data", "methods", "models", "running", "training")
"""What decides a number, besides the config; reports, engines and commands do not."""


@lru_cache(maxsize=1)
def code_version() -> str:
    """The sha256 of this package's source, as far as it decides what a run gives."""
    package = Path(__file__).resolve().parent.parent
    files = [file for room in ROOMS for file in sorted((package / room).rglob("*.py"))]
    return sources_digest(package, [*files, package / "options.py", package / "seeding.py"])


def require_same(content: Mapping[str, str], key: str, found: str) -> None:
    """Raises ResultsError unless ``found`` is what ``content`` says of ``key``, if it says any."""
    if content.get(key, found) != found:
        raise ResultsError(
            f"{key}: is not what the run was prepared with ({content[key][:20]}…, now "
            f"{found[:20]}…); it was changed since"
        )


def _git(*arguments: str) -> str | None:
    """What git says of the checkout this package lies in; None where it lies in none."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def describe(device: torch.device) -> dict[str, Any]:
    """Device and system, without anything that names the machine or its user."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {"device": str(device), "device_name": name, "system": platform.system()}


class MemoryPeak:
    """The peak of memory from its making on: of the device, or of this process."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.resettable = False
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        elif sys.platform == "linux":
            _give_back_freed_memory()
            try:
                Path("/proc/self/clear_refs").write_text("5")
                self.resettable = True
            except OSError:
                pass

    def bytes(self) -> int | None:
        """None where the system does not tell, or cannot tell this run from earlier ones."""
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        if not self.resettable:
            return None
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return None


def _give_back_freed_memory() -> None:
    """What an earlier run has freed the C library may hold, and it would be this one's peak."""
    with suppress(OSError, AttributeError):  # Only glibc has it.
        ctypes.CDLL(None).malloc_trim(0)
