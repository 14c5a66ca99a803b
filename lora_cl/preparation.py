"""What must be right before anything starts: the config against its data, model and methods."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lora_cl.base import weights_checksum
from lora_cl.benchmarks import BENCHMARKS, Benchmark
from lora_cl.config import Config, Experiment, RunConfig
from lora_cl.data import DATASETS, Source, data_root
from lora_cl.errors import ConfigError, LoraClError
from lora_cl.methods import METHODS
from lora_cl.models import build_network
from lora_cl.runner import make_benchmark

Say = Callable[[str], None]


def prepare(experiment: Experiment, data_dir: Path | None, say: Say) -> list[RunConfig]:
    """The runs of an experiment, all checked; its data sets are fetched where they are missing.

    Raises ConfigError (with file, line and key) or DataError; then nothing was started.
    """
    content: dict[str, str] = {}
    for source in sources(experiment.config):
        source.fetch(data_root(data_dir), say)
        if _has_paths(source):
            content[f"data {len(content)}"] = source.load(data_root(data_dir)).checksum
    check(experiment, data_dir)
    if experiment.config.base.weights is not None:
        content["weights"] = weights_checksum(Path(experiment.config.base.weights))
    return experiment.runs(content)


def check(experiment: Experiment, data_dir: Path | None) -> None:
    """Builds benchmark, network and methods as a run would, and trains nothing.

    Where a data set is not there yet, only what can be known without it is checked.
    """
    config = experiment.config
    device = torch.device("cpu")
    root = data_root(data_dir)
    there = all(source.where(root) is not None for source in sources(config))
    try:
        benchmark = make_benchmark(config, config.seeds[0], device, data_dir)
        for label in config.methods:
            _check_method(config, label, benchmark, there)
    except ConfigError as error:
        raise experiment.error(str(error), error.key) from None


def _check_method(config: Config, label: str, benchmark: Benchmark, there: bool) -> None:
    options = config.methods[label]
    method = METHODS[options.method](options)
    try:
        method.check(benchmark)
        if there:
            network = build_network(config.model, benchmark.input_shape, seed=0)
            benchmark.task(0)
            method.setup(network, benchmark, seed=0, bank={})
    except LoraClError as error:
        key = error.key if isinstance(error, ConfigError) else None
        raise ConfigError(str(error), key or f"methods.{label}") from None


def sources(config: Config) -> list[Source]:
    """Every data set that an experiment draws on."""

    options: list[Any] = BENCHMARKS[config.benchmark.name].dataset_options(config.benchmark)
    if config.base.pretrain is not None:
        options = [*options, config.base.pretrain.dataset]
    return [DATASETS[one.name](one) for one in options]


def _has_paths(source: Source) -> bool:
    fields = type(source.options).model_fields.values()
    extras = [field.json_schema_extra for field in fields]
    return any(isinstance(extra, dict) and extra.get("hashed") is False for extra in extras)
