"""What every data set promises.

``TestDigits = source_contract("my_package.data:Digits")`` in a test file is all it takes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch

from lora_cl.config import parse_config
from lora_cl.data import DATASETS, Dataset, Source
from lora_cl.testing.runs import outcome, run_done


def source_contract(
    name: str, options: str = "", model: str = "{hidden: [16]}"
) -> type[SourceContract]:
    """The contract of a data set, named as in a config, with its ``options`` in YAML.

    ``model`` is one that takes its inputs: texts need a network that reads them.
    """
    return type(
        "TestContract", (SourceContract,), {"name": name, "options": options, "model": model}
    )


class SourceContract:
    name: ClassVar[str]
    options: ClassVar[str]
    model: ClassVar[str]

    @property
    def text(self) -> str:
        dataset = ", ".join(filter(None, (f"name: '{self.name}'", self.options)))
        return (
            f"name: contract\nbenchmark: {{name: split, tasks: 1, dataset: {{{dataset}}}}}\n"
            f"model: {self.model}\nmethods: {{frozen: {{classifier: ncm}}}}\n"
        )

    def source(self) -> Source:
        options: Any = parse_config(self.text, "contract.yaml").config.benchmark.dataset
        return DATASETS[self.name](options)

    def load(self, root: Path) -> Dataset:
        return self.source()._load(root)

    def test_tensors_are_as_the_benchmarks_take_them(self, tmp_path: Path) -> None:
        data, parts = self.load(tmp_path), 0
        for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
            assert x.dtype in (torch.uint8, torch.float32)
            of_two = x.dtype == (torch.uint8 if data.text else torch.float32)
            assert x.ndim == 4 or (x.ndim == 2 and of_two)
            assert x.shape[1:] == data.x_train.shape[1:]
            assert bool(torch.isfinite(x.float()).all())
            assert y.dtype == torch.int64
            assert y.shape == x.shape[:1]
            assert set(y.tolist()) <= set(range(data.classes))
            parts += 1
        assert parts == 2
        assert len(set(data.class_names)) == data.classes >= 2
        assert self.source().classes in (None, data.classes)

    def test_loading_twice_gives_the_same_bytes(self, tmp_path: Path) -> None:
        one, other = self.load(tmp_path), self.load(tmp_path)
        assert one.checksum == other.checksum
        assert one.checksum.startswith("sha256:")
        for name in ("x_train", "y_train", "x_test", "y_test"):
            assert torch.equal(getattr(one, name), getattr(other, name))

    def test_a_run_on_it_gives_the_same_bytes(self, tmp_path: Path) -> None:
        one, other = (outcome(run_done(self.text, tmp_path / name)) for name in ("a", "b"))
        assert one == other
