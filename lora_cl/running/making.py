"""The parts of a run, made from its config: data sets, benchmark, method on its base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lora_cl.benchmarks import BENCHMARKS, Benchmark
from lora_cl.benchmarks.trial import Trial, without_test
from lora_cl.config import Config
from lora_cl.config.model import ClassesOptions
from lora_cl.data import DATASETS, Dataset, Source, data_root
from lora_cl.methods import METHODS, Method
from lora_cl.models import BACKBONES, Network, encoded
from lora_cl.plugins import code_of
from lora_cl.running.base import NOTHING, base_network
from lora_cl.running.checkpoints import AdapterFolder
from lora_cl.running.machine import require_same
from lora_cl.running.targeting import auto_targets, choose, with_targets

CHOSEN = ("targets", "relative_updates")
"""What of a record's details is a choice that the data decided before the first task."""


def sources(config: Config) -> dict[str, Source]:
    """Every data set that an experiment draws on, by the key of the config that names it."""
    found = benchmark_sources(config)
    for key, part in beside(config).items():
        found[f"{key}.dataset"] = DATASETS[part.dataset.name](part.dataset)
    return found


def beside(config: Config) -> dict[str, ClassesOptions]:
    """What a config draws on beside its benchmark, by key."""
    parts = {"base.pretrain": config.base.pretrain, "probe": config.probe}
    return {key: part for key, part in parts.items() if part is not None}


def benchmark_sources(config: Config) -> dict[str, Source]:
    options: list[Any] = BENCHMARKS[config.benchmark.name].dataset_options(config.benchmark)
    keys = [f"benchmark.datasets.{index}" for index in range(len(options))]
    if len(options) == 1 and not hasattr(config.benchmark, "datasets"):
        keys = ["benchmark.dataset"]
    return {key: DATASETS[one.name](one) for key, one in zip(keys, options, strict=True)}


def code_of_others(config: Config) -> dict[str, str]:
    """Checksums of the packages that the config's parts are from, where that is not lora-cl."""
    parts: dict[str, type[Any]] = {
        f"methods.{label}.code": METHODS[options.method]
        for label, options in config.methods.items()
    }
    parts["benchmark.code"] = BENCHMARKS[config.benchmark.name]
    parts["model.code"] = BACKBONES[config.model.name]
    found = {key: code_of(part) for key, part in parts.items()}
    return {key: code for key, code in found.items() if code is not None}


def make_benchmark(
    config: Config,
    seed: int,
    device: torch.device,
    data_dir: Path | None,
    content: Mapping[str, str] = NOTHING,
) -> Benchmark:
    """The benchmark of a run; data sets are loaded when first asked for.

    A data set that is not the one that ``content`` names, by its checksum, is a ResultsError.
    """
    found = benchmark_sources(config)
    root = data_root(data_dir)

    def load(source: Source) -> Dataset:
        data = source.load(root)
        key = next(key for key, one in found.items() if one is source)
        require_same(content, key, data.checksum)
        return encoded(config.model, without_test(data) if config.tuning else data, root)

    kind = BENCHMARKS[config.benchmark.name]
    whole = kind(
        config.benchmark,
        config.scenario,
        seed,
        list(found.values()),
        load,
        device,
        config.stream,
        config.validation,
    )
    return whole if config.tuning is None else Trial(whole, config.tuning.tasks)


def make_method(
    config: Config,
    benchmark: Benchmark,
    bank: AdapterFolder,
    device: torch.device,
    data_dir: Path | None,
    content: Mapping[str, str] = NOTHING,
    network: Network | None = None,
    chosen: Mapping[str, Any] = NOTHING,
) -> Method:
    """The run's method on its base network, or on ``network``, before the first task.

    ``chosen`` is what an earlier one found that the data decides of its options.

    Code of other packages that is not what ``content`` names is a ResultsError.
    """
    ((label, options),) = config.methods.items()
    for key, code in code_of_others(config).items():
        require_same(content, key.replace(f"methods.{label}.", "method."), code)
    (seed,) = config.seeds
    if network is None:
        network = base_network(config, seed, benchmark, device, data_dir, content)
    chosen = dict(chosen)
    if auto := auto_targets(options):
        if "targets" not in chosen:
            moved = choose(auto, network, benchmark, config, seed, data_dir, content)
            chosen = {"targets": list(moved)[: auto.auto], "relative_updates": moved}
        options = with_targets(options, chosen["targets"])
    method = METHODS[options.method](options)
    method.chosen = chosen
    bank.encode, bank.decode = method.to_peft, method.from_peft
    method.setup(network, benchmark, seed, bank)
    return method
