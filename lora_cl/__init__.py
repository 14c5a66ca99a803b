"""lora-cl: does this method forget, and what does it cost not to?"""

from __future__ import annotations

TYPE_CHECKING = False  # A type checker takes it to be true; typing is slow to import.
__version__ = "0.1.0"

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
    if name in __all__:
        from lora_cl import api

        if name in api.__all__:
            return getattr(api, name)
        from lora_cl import bank

        return getattr(bank, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
