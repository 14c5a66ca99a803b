"""Steps on deep networks for images, with the channels of a pixel side by side and without."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any
from unittest.mock import patch

from tests.bench.measure import Row, Setting, at_least, ratio, take_turns
from tests.bench.sides import in_process, run_config, seconds_a_step

LITE0 = {"name": "timm", "model": "tf_efficientnet_lite0", "size": 64}
RESNET18 = {"name": "torchvision", "model": "resnet18", "size": 64}
LORA = {"lora": {"rank": 2, "alpha": 4}}


def rows(setting: Setting) -> list[Row]:
    """A task of 2 classes, batches of 32 images of 64 x 64, random weights.

    Of the last row the side called ours is the one that is not used: no convolution has groups.
    """
    first = "channels first / last, EfficientNet-Lite0, "
    full = _compared(setting, LITE0, {"full": {}})
    lora = _compared(setting, LITE0, LORA)
    resnet = _compared(setting, RESNET18, {"full": {}})
    return [
        at_least(1.3, f"{first}step of full", *_in_ms(full), ratio(full, "first", "last")),
        at_least(1.3, f"{first}step of lora", *_in_ms(lora), ratio(lora, "first", "last")),
        Row(
            "channels first / last, ResNet-18, step of full",
            *_in_ms(resnet),
            ratio(resnet, "first", "last"),
            note="not used: no convolution has groups",
        ),
    ]


def _in_ms(seconds: dict[str, list[float]]) -> tuple[float, float, str]:
    return 1000 * median(seconds["last"]), 1000 * median(seconds["first"]), "ms a step"


def _compared(
    setting: Setting, model: dict[str, Any], method: dict[str, Any]
) -> dict[str, list[float]]:
    data = {"name": "split", "dataset": "mnist", "tasks": 5}
    few = {"max_train_samples": setting.of(320, 64), "max_test_samples": 1}
    run = run_config(method, benchmark={**data, **few}, model=model, train={"batch_size": 32})

    def side(last: bool) -> Callable[[], float]:
        def timed() -> float:
            with patch("lora_cl.models.images.pays", lambda network: last):
                _, records = in_process(run, setting.scratch / "images")
            return seconds_a_step(records)

        return timed

    return take_turns(setting.of(3, 1), {"last": side(True), "first": side(False)}, warm_up=False)
