"""Which device a name means, on this machine and on others; what memory a run has at most."""

from __future__ import annotations

import sys

import pytest
import torch

from lora_cl.errors import ConfigError
from lora_cl.running.machine import MemoryPeak, resolve_device


@pytest.fixture(params=[0, 2])
def gpus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    count: int = request.param
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return count


def test_a_device_that_is_there_is_taken(gpus: int) -> None:
    assert resolve_device("cpu") == resolve_device("cpu:0") == torch.device("cpu")
    assert resolve_device("auto") == torch.device("cuda" if gpus else "cpu")
    if gpus:
        assert resolve_device("cuda") == torch.device("cuda")
        assert resolve_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gpu", "is not one of auto, cpu, cuda, mps"),
        ("", "is not one of auto, cpu, cuda, mps"),
        ("cpu:x", "after the colon stands a number, as in cuda:0"),
        ("cpu:", "after the colon stands a number"),
        ("cuda:-1", "after the colon stands a number"),
        ("cuda:²", "after the colon stands a number"),
        ("cuda:99999999999999999999", "after the colon stands a number"),
        ("cpu:1", "there is none here; there is cpu"),
        ("cuda:2", "there is none here; there is cpu"),
        ("mps", "there is none here; there is cpu"),
    ],
)
def test_any_other_name_is_refused_in_one_line(gpus: int, name: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_device(name)
    assert str(caught.value).startswith(f"--device {name}: {says}")
    assert str(caught.value).endswith(", cuda:0 to cuda:1") == (gpus == 2 and "none here" in says)


@pytest.mark.skipif(sys.platform != "linux", reason="no other system tells a peak from a time on")
def test_a_peak_is_not_that_of_what_was_freed_before() -> None:
    cpu = torch.device("cpu")
    before = MemoryPeak(cpu).bytes()
    peak = MemoryPeak(cpu)
    tensors = [torch.ones(1000 + n % 4000) for n in range(30_000)]  # 360 MB in small pieces.
    held = peak.bytes()
    kept = tensors[::1000]  # Scattered, so that the pieces between are no memory of the system's.
    del tensors
    after = MemoryPeak(cpu).bytes()
    if before is None or held is None or after is None:
        pytest.skip("the system does not let a process begin its peak anew")
    assert len(kept) == 30
    assert held - before > 300e6
    assert after - before < 100e6
