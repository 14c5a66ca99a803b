"""One way of computing, whatever the process did before, and what of it cannot be set."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

ENVIRONMENT = (
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_DYNAMIC",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_CORETYPE",
)
"""Variables that libraries read when they are loaded, and that change the last bits."""

Setting = tuple[Callable[[], Any], Callable[[Any], Any], Any]


def arithmetic() -> dict[str, Any]:
    """What decides the last bits besides versions, and cannot be set from here."""
    return {
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "mkldnn": torch.backends.mkldnn.is_available(),  # type: ignore[no-untyped-call]
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    }


@contextmanager
def reproducible(threads: int) -> Iterator[None]:
    """Sets all that can be set of how torch computes; undone afterwards, as is the random state."""
    random = torch.get_rng_state()
    settings: list[Setting] = [
        (torch.get_num_threads, torch.set_num_threads, threads),
        # Says the same as use_deterministic_algorithms, and imports no compiler for it.
        (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode, "error"),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
        (torch.get_default_dtype, torch.set_default_dtype, torch.float32),
        (_flushes_denormals, torch.set_flush_denormal, False),
    ]
    flags = [
        (torch.backends.mkldnn, "enabled", True),
        (torch.backends.cudnn, "benchmark", False),
        (torch.backends.cudnn, "allow_tf32", False),
        (torch.backends.cuda.matmul, "allow_tf32", False),
    ]
    settings += [_flag(*flag) for flag in flags]
    with ExitStack() as undo:
        for read, write, value in settings:
            undo.callback(write, read())
            write(value)
        undo.callback(torch.set_rng_state, random)
        for kind in ("cpu", "cuda"):
            undo.enter_context(torch.autocast(kind, enabled=False))
        undo.enter_context(torch.device("cpu"))
        undo.enter_context(torch.enable_grad())
        yield


def _flag(owner: Any, name: str, value: bool) -> Setting:
    return lambda: getattr(owner, name), lambda new: setattr(owner, name, new), value


def _flushes_denormals() -> bool:
    return not bool(torch.tensor(1e-310, dtype=torch.float64) * 1.0)
