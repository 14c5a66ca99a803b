"""Where every method of a seed starts: the base network, random, pretrained or from a file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lora_cl.benchmarks.benchmark import Benchmark, permutation, samples_of
from lora_cl.config import Config
from lora_cl.data import DATASETS, data_root, pixels
from lora_cl.data.streaming import subset
from lora_cl.errors import ConfigError, ResultsError
from lora_cl.methods.full import Full
from lora_cl.methods.shared import SharedBackboneOptions
from lora_cl.models import (
    Network,
    TaskNetwork,
    build_network,
    calibrate_norms,
    keep_statistics,
    seeded,
)
from lora_cl.running.checkpoints import load_tensors, require_owner, save_tensors
from lora_cl.seeding import seed_for
from lora_cl.text import one_line
from lora_cl.training import loop
from lora_cl.training.optimizers import make_optimizer

NORM_SAMPLES = 512


def base_network(
    config: Config, seed: int, benchmark: Benchmark, device: torch.device, data_dir: Path | None
) -> Network:
    """The network that every method of this seed starts from, without heads, on ``device``, in eval
    mode.

    A pretrained backbone is cached beside the data sets, under the hash of all that decides it.
    The norms of a random one, which have seen no data, get the statistics of inputs of the first
    task.
    """
    input_shape = benchmark.input_shape
    network = build_network(config.model, input_shape, seed_for(seed, "backbone")).to(device)
    if config.base.weights is not None:
        load_weights(network, Path(config.base.weights))
    elif config.base.pretrain is not None:
        key = _key(config, seed, input_shape, data_dir)
        cached = data_root(data_dir) / "bases" / f"{key}.safetensors"
        try:
            tensors, meta = load_tensors(cached)
            require_owner(cached, meta, key=key)
        except ResultsError:
            _pretrain(network, config, seed, data_dir)
            cached.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(cached, network.backbone.state_dict(), {"key": key})
        else:
            network.backbone.load_state_dict(tensors)
    elif keep_statistics(network.backbone):
        x = benchmark.task(0).train().x
        chosen = permutation(len(x), seed_for(seed, "norm statistics"))[:NORM_SAMPLES]
        calibrate_norms(network.backbone, subset(x, chosen.to(device))[:NORM_SAMPLES])
    return network.eval()


def load_weights(network: Network, path: Path) -> None:
    """Backbone weights from a safetensors file of lora-cl, or a plain one with the same names.

    Raises ConfigError if it cannot be read or does not hold this backbone.
    """
    try:
        tensors = _read(path)
        prefixes = ("method.network.backbone.", "network.backbone.", "backbone.")
        for prefix in prefixes:
            if any(name.startswith(prefix) for name in tensors):
                tensors = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
                break
        network.backbone.load_state_dict(tensors)
    except (OSError, RuntimeError, ValueError) as error:
        reason = one_line(error)
        raise ConfigError(
            f"{path}: does not hold this backbone: {reason}", "base.weights"
        ) from None


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"not a safetensors file ({error})") from None


def weights_checksum(path: Path) -> str:
    """The sha256 of a weights file; ConfigError if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", "base.weights") from None


def _key(config: Config, seed: int, input_shape: torch.Size, data_dir: Path | None) -> str:
    assert config.base.pretrain is not None
    decides: dict[str, Any] = {
        "input": list(input_shape),
        "model": config.model.model_dump(mode="json"),
        "pretrain": config.base.pretrain.model_dump(mode="json"),
        "train": config.train.model_dump(mode="json"),
        "seed": seed,
        "threads": config.threads,
        "torch": torch.__version__,
        "data": _pretrain_data(config, data_dir).checksum,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:16]


def _pretrain_data(config: Config, data_dir: Path | None) -> Any:
    assert config.base.pretrain is not None
    options = config.base.pretrain.dataset
    return DATASETS[options.name](options).load(data_root(data_dir))


def _pretrain(network: Network, config: Config, seed: int, data_dir: Path | None) -> None:
    """Trains backbone and a head that is thrown away, with the run's own training options."""
    pretrain, train = config.base.pretrain, config.train
    assert pretrain is not None
    data = _pretrain_data(config, data_dir)
    classes = pretrain.classes or list(range(data.classes))
    device = network.device
    samples = samples_of(data, "train", pixels, classes, device, config.stream)
    with seeded(seed_for(seed, "pretraining head")):
        head = nn.Linear(network.features, len(classes))
    together = TaskNetwork(network.backbone, [head.to(device)], {0: 0})
    together.requires_grad_(True)
    steps = -(-len(samples.y) // train.batch_size) * pretrain.epochs
    optimizer = make_optimizer(
        train.optimizer,
        [{"params": list(together.parameters())}],
        train.lr,
        train.weight_decay,
        train.momentum,
    )
    torch.manual_seed(seed_for(seed, "pretraining"))
    loop.fit(
        Full(SharedBackboneOptions()),
        together,
        samples.x,
        samples.y,
        optimizer=optimizer,
        rate=loop.RATES[train.schedule],
        batch_size=train.batch_size,
        total_steps=steps,
        order=lambda epoch: permutation(
            len(samples.y), seed_for(seed, "pretraining batches", epoch)
        ).to(device),
        clip_norm=train.clip_norm,
        progress=loop.Progress(),
        after_step=lambda: None,
        after_epoch=lambda losses: None,
    )
