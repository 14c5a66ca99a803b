"""What must be right before anything starts: the config against its data, model and methods."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from lora_cl.benchmarks import Benchmark
from lora_cl.config import Config, Experiment, RunConfig
from lora_cl.data import Dataset, data_root, pixels
from lora_cl.errors import ConfigError, DataError, LoraClError
from lora_cl.methods import METHODS, MemoryBank
from lora_cl.methods.routing import check_router
from lora_cl.models import build_network
from lora_cl.running.base import load_weights, weights_checksum
from lora_cl.running.machine import code_version
from lora_cl.running.making import code_of_others, make_benchmark, sources

Say = Callable[[str], None]


def prepare(
    experiment: Experiment, data_dir: Path | None, say: Say, device: str = "cpu"
) -> list[RunConfig]:
    """The runs of an experiment, all checked; its data sets are fetched where they are missing.

    Raises ConfigError (with file, line and key) or DataError; then nothing was started.
    """
    root = data_root(data_dir)
    content = {"code": code_version(), "torch": torch.__version__}
    content["device"] = torch.device(device).type
    content |= code_of_others(experiment.config)
    for key, source in sources(experiment.config).items():
        try:
            source.fetch(root, say)
            content[key] = source.load(root).checksum
        except DataError as error:
            raise DataError(str(experiment.error(str(error), key))) from None
    check(experiment, data_dir)
    if experiment.config.base.weights is not None:
        content["base.weights"] = weights_checksum(Path(experiment.config.base.weights))
    return experiment.runs(content)


def check(experiment: Experiment, data_dir: Path | None) -> None:
    """Builds benchmark, network and methods as a run would, and trains nothing.

    Where a data set is not there yet, only what can be known without it is checked.
    """
    config = experiment.config
    device = torch.device("cpu")
    root = data_root(data_dir)
    found = sources(config)
    there = all(source.where(root) is not None for source in found.values())
    try:
        benchmark = make_benchmark(config, config.seeds[0], device, data_dir)
        for label in config.methods:
            _check_method(config, label, benchmark, there)
        if config.base.pretrain is not None and there:
            data = found["base.pretrain.dataset"].load(root)
            _check_pretraining(config, benchmark.input_shape, data)
    except ConfigError as error:
        raise experiment.error(str(error), error.key) from None


def _check_method(config: Config, label: str, benchmark: Benchmark, there: bool) -> None:
    options = config.methods[label]
    method = METHODS[options.method](options)
    try:
        check_router(options, config.scenario)
        method.check(benchmark)
        if there:
            network = build_network(config.model, benchmark.input_shape, seed=0)
            if config.base.weights is not None:
                load_weights(network, Path(config.base.weights))
            benchmark.task(0)
            method.setup(network, benchmark, seed=0, bank=MemoryBank())
    except LoraClError as error:
        key = error.key if isinstance(error, ConfigError) else None
        raise ConfigError(str(error), key or f"methods.{label}") from None


def _check_pretraining(config: Config, input_shape: torch.Size, data: Dataset) -> None:
    assert config.base.pretrain is not None
    unknown = [number for number in config.base.pretrain.classes or [] if number >= data.classes]
    if unknown:
        message = f"{data.name} has no class {unknown[0]}, only 0..{data.classes - 1}"
        raise ConfigError(message, "base.pretrain.classes")
    network = build_network(config.model, input_shape, seed=0).eval()
    try:
        network.backbone(pixels(data.x_train[:1]))
    except RuntimeError:
        message = f"{data.name} has inputs of {tuple(data.x_train.shape[1:])}, the benchmark of "
        message += f"{tuple(input_shape)}: one backbone does not take both"
        raise ConfigError(message, "base.pretrain.dataset") from None
