"""How numbers are computed: settled for a run where that can be, else told in its record."""

from __future__ import annotations

import os
import platform
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lora_cl.errors import ConfigError

DECISIVE = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "CUBLASLT_WORKSPACE_SIZE",
    "DNNL_CPU_ISA_HINTS",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "GLIBC_TUNABLES",
    "MKL_CBWR",
    "MKL_DEBUG_CPU_TYPE",
    "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_DYNAMIC",
    "OMP_THREAD_LIMIT",
    "ONEDNN_CPU_ISA_HINTS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
)
"""Environment variables that the numeric libraries read once and that change how they round."""

_busy = threading.RLock()
_computing: list[str] = []


def arithmetic() -> dict[str, str]:
    """What decides how numbers are rounded and cannot be set from here, by its name."""
    found = {
        "processor": _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }
    return found | {name: os.environ[name] for name in DECISIVE if name in os.environ}


def computed_with(device: torch.device) -> dict[str, str]:
    """What must stay as it is while a run is done, for its result to be that of one go."""
    return arithmetic() | {"torch": torch.__version__, "device": device.type}


def _processor() -> str:
    """The model: libraries choose their code by it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except (OSError, ValueError):
        pass
    return platform.processor() or platform.machine()


@contextmanager
def alone(work: str = "") -> Iterator[None]:
    """This process's generators and settings are this thread's for now.

    Another thread's short work is waited for. Raises ConfigError where one is at ``work`` of its
    own that takes long: both would give other bytes.
    """
    while not _busy.acquire(timeout=0.05):
        if _computing:
            raise ConfigError(
                f"another thread of this process is at work on {_computing[0]}; two at once would "
                "disturb each other: wait for it, or do the runs in processes (jobs=1 or more)"
            )
    if work:
        _computing.append(work)
    try:
        yield
    finally:
        if work:
            _computing.pop()
        _busy.release()


@contextmanager
def reproducible(threads: int, work: str = "") -> Iterator[None]:
    """One way of computing, whatever the process did before; undone afterwards.

    Whatever a program can set that changes a bit of a result is settled inside: whole float32
    (on a GPU, too), kernels, autocast, default dtype and device, denormals, modes of autograd.
    ``work`` and what is raised as in ``alone``.
    """
    with ExitStack() as stack:
        stack.enter_context(alone(work))
        stack.callback(torch.set_rng_state, torch.get_rng_state())
        with suppress(AttributeError):  # Last of all, for the older settings below set them, too.
            stack.callback(_set_precisions, _precisions())
        for get, put, value in _switches(threads):
            _turn(stack, get, put, value)
        for device in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device().type != "cpu":  # Set, or inside `with torch.device(...)`.
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        yield


Switch = tuple[Callable[[], Any], Callable[[Any], Any], Any]
"""How a setting is read, how it is made, and what it has to be."""


def _turn(stack: ExitStack, get: Callable[[], Any], put: Callable[[Any], Any], value: Any) -> None:
    try:
        before = get()
    except (AttributeError, RuntimeError):
        return  # This torch has no such setting, or its old and its new one contradict each other.
    if before != value:
        put(value)
        stack.callback(put, before)


def _switches(threads: int) -> Iterator[Switch]:
    backends: Any = torch.backends
    yield torch.get_num_threads, torch.set_num_threads, threads
    # Says the same as use_deterministic_algorithms, and imports no compiler for it.
    yield torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode, 2
    yield torch.get_default_dtype, torch.set_default_dtype, torch.float32
    yield torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly, False
    yield _flushes_denormals, torch.set_flush_denormal, False
    yield torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"
    yield _attribute(backends.cudnn, "allow_tf32", False)
    yield _precisions, _set_precisions, tuple(PRECISIONS.values())
    yield backends.mha.get_fastpath_enabled, backends.mha.set_fastpath_enabled, True
    for kernel in ("flash", "mem_efficient", "math", "cudnn"):
        get = getattr(backends.cuda, f"{kernel}_sdp_enabled")
        yield get, getattr(backends.cuda, f"enable_{kernel}_sdp"), True
    for owner, name, value in (
        (torch.utils.deterministic, "fill_uninitialized_memory", True),
        (backends.mkldnn, "enabled", True),
        (backends.mkldnn, "deterministic", False),
        (backends.cudnn, "enabled", True),
        (backends.cudnn, "benchmark", False),
        (backends.cudnn, "deterministic", False),
    ):
        yield _attribute(owner, name, value)
    yield torch._C._get_nnpack_enabled, torch._C._set_nnpack_enabled, True


def _attribute(owner: Any, name: str, value: Any) -> Switch:
    return partial(getattr, owner, name), partial(setattr, owner, name), value


def _flushes_denormals() -> bool:
    return sys.float_info.min / 2 == 0.0


PRECISIONS = {
    ("generic", "all"): "none",
    ("mkldnn", "all"): "none",
    ("cuda", "all"): "none",
    ("mkldnn", "matmul"): "ieee",
    ("mkldnn", "conv"): "none",
    ("mkldnn", "rnn"): "none",
    ("cuda", "matmul"): "ieee",
    ("cuda", "conv"): "none",
    ("cuda", "rnn"): "none",
}
"""Of float32, by backend and operation; the general ones first, from which the others inherit."""


def _precisions() -> tuple[str, ...]:
    return tuple(torch._C._get_fp32_precision_getter(*place) for place in PRECISIONS)


def _set_precisions(values: tuple[str, ...]) -> None:
    for place, value in zip(PRECISIONS, values, strict=True):
        if torch._C._get_fp32_precision_getter(*place) != value:
            torch._C._set_fp32_precision_setter(*place, value)
