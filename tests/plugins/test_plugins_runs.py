"""A backbone and a benchmark of ones own, in a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from plugin_cases import CONFIG, Write

from lora_cl.config import parse_config
from lora_cl.errors import ConfigError
from lora_cl.records.results import read_result
from lora_cl.running.preparation import prepare
from lora_cl.running.runner import Where, run_one

BACKBONE = """
import torch
from torch import nn
from lora_cl.models import Backbone
from lora_cl.options import OptionsBase

class Options(OptionsBase):
    width: int = 4

class Mine(Backbone):
    Options = Options
    summary = "one layer"

    def __init__(self, options, input_shape):
        super().__init__()
        self.layer = nn.Linear(input_shape.numel(), options.width)

    def forward(self, x):
        return torch.tanh(self.layer(x))
"""


def test_a_pretrained_base_is_not_kept_for_other_code(write: Write, tmp_path: Path) -> None:
    overrides = [
        "model='layer:Mine'",
        "base.pretrain={dataset: {name: synthetic, classes: 4, features: 6}}",
    ]
    made = []
    for number, text in enumerate((BACKBONE, BACKBONE, BACKBONE.replace("tanh", "relu"))):
        write({"layer.py": text})
        config = parse_config(CONFIG.format(method="full"), "c.yaml", overrides)
        (run,) = prepare(config, tmp_path / "data", print)
        where = Where(tmp_path / str(number), data_dir=tmp_path / "data")
        assert run_one(run, where).status == "done"
        made.append(len(list((tmp_path / "data/bases").glob("*.safetensors"))))
    assert made == [1, 1, 2]


BENCHMARK = """
import torch
from lora_cl.benchmarks import Benchmark, BenchmarkOptions, Samples

class Mine(Benchmark):
    Options = BenchmarkOptions
    summary = "makes its own samples"
    n_tasks = 2
    input_shape = torch.Size([4])

    @staticmethod
    def dataset_options(options):
        return []

    def task_classes(self, index):
        return 2

    def task(self, index):
        def samples():
            y = torch.arange(40) % 2
            noise = torch.randn(40, 4, generator=torch.Generator().manual_seed(index))
            return Samples(noise + 3 * y[:, None], y)

        return self.make_task(index, str(index), samples, samples)
"""


def test_a_benchmark_may_draw_on_no_data_set(write: Write, tmp_path: Path) -> None:
    write({"own_samples.py": BENCHMARK})
    text = "name: p\nbenchmark: own_samples:Mine\ntrain: {epochs: 5, lr: 0.1}\nmethods: {full: }\n"
    (run,) = prepare(parse_config(text, "c.yaml"), None, print)
    assert len(run.content["benchmark.code"]) == 64
    assert run_one(run, Where(tmp_path / "r")).status == "done"


def test_a_benchmark_of_one_s_own_holds_out_by_make_task(write: Write, tmp_path: Path) -> None:
    text = "name: p\nbenchmark: held_out:Mine\nvalidation: 0.25\nmethods: {full: }\n"
    write({"held_out.py": BENCHMARK})
    (run,) = prepare(parse_config(text, "c.yaml"), None, print)
    assert run_one(run, Where(tmp_path / "r")).status == "done"
    result = read_result(tmp_path / "r" / run.folder)
    assert result is not None
    assert result["validation_matrix"][1][0] is not None
    by_hand = BENCHMARK.replace(
        "self.make_task(index, str(index), samples, samples)",
        "Task(index, str(index), 2, 2 * index, samples, samples)",
    )
    write({"held_out.py": by_hand.replace("Samples\n", "Samples, Task\n")})
    with pytest.raises(ConfigError) as caught:
        prepare(parse_config(text, "c.yaml"), None, print)
    assert str(caught.value) == (
        "c.yaml:3: validation: held_out:Mine holds no samples out: it makes tasks without make_task"
    )
