"""Which device a name means, on this machine and on others."""

from __future__ import annotations

import pytest
import torch

from lora_cl.errors import ConfigError
from lora_cl.running.machine import resolve_device


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
