"""lora-cl: does this method forget, and what does it cost not to?"""

from __future__ import annotations

TYPE_CHECKING = False  # A type checker takes it to be true; typing is slow to import.
__version__ = "0.1.0"

_PLACES = {
    "api": ("load_config", "load_results", "load_run", "parse_config", "run", "tune"),
    "bank": (
        "add_task",
        "analyze",
        "export_adapter",
        "import_adapter",
        "load_bank",
        "load_base",
        "merge_adapters",
        "predict",
        "remove_adapter",
    ),
}
__all__ = [
    "__version__",
    "add_task",
    "analyze",
    "export_adapter",
    "import_adapter",
    "load_bank",
    "load_base",
    "load_config",
    "load_results",
    "load_run",
    "merge_adapters",
    "parse_config",
    "predict",
    "remove_adapter",
    "run",
    "tune",
]

if TYPE_CHECKING:
    from typing import Any

    from lora_cl.api import load_config, load_results, load_run, parse_config, run, tune
    from lora_cl.bank import (
        add_task,
        analyze,
        export_adapter,
        import_adapter,
        load_bank,
        load_base,
        merge_adapters,
        predict,
        remove_adapter,
    )


def __getattr__(name: str) -> Any:
    """Imports the Python interface, and torch with it, when it is first asked for."""
    for module, names in _PLACES.items():
        if name in names:
            from importlib import import_module

            return getattr(import_module(f"lora_cl.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
