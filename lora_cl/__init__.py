"""lora-cl: does this method forget, and what does it cost not to?"""

from __future__ import annotations

TYPE_CHECKING = False  # A type checker takes it to be true; typing is slow to import.
__version__ = "0.1.0"
__all__ = ["__version__", "load_config", "load_results", "load_run", "parse_config", "run", "tune"]

if TYPE_CHECKING:
    from typing import Any

    from lora_cl.api import load_config, load_results, load_run, parse_config, run, tune


def __getattr__(name: str) -> Any:
    """Imports the Python interface, and torch with it, when it is first asked for."""
    if name in __all__:
        from lora_cl import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
