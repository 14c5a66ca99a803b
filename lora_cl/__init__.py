"""lora-cl: does this method forget, and what does it cost not to?"""

from __future__ import annotations

TYPE_CHECKING = False  # A type checker takes it to be true; typing is slow to import.
__version__ = "0.1.0"
__all__ = [
    "__version__",
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
]

if TYPE_CHECKING:
    from typing import Any

    from lora_cl.api import (
        export_adapter,
        import_adapter,
        load_bank,
        load_base,
        load_config,
        load_results,
        load_run,
        merge_adapters,
        parse_config,
        predict,
        remove_adapter,
        run,
    )


def __getattr__(name: str) -> Any:
    """Imports the Python interface, and torch with it, when it is first asked for."""
    if name in __all__:
        from lora_cl import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
