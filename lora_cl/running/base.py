"""Where every method of a seed starts: the base network, random, pretrained or from a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lora_cl.benchmarks.benchmark import permutation, samples_of
from lora_cl.config import Config
from lora_cl.data import DATASETS, Dataset, data_root, pixels
from lora_cl.errors import ConfigError, ResultsError
from lora_cl.methods.full import Full
from lora_cl.methods.shared import SharedBackboneOptions
from lora_cl.models import BACKBONES, Network, TaskNetwork, build_network, seeded
from lora_cl.plugins import code_of
from lora_cl.running.checkpoints import load_tensors, require_owner, save_tensors
from lora_cl.running.machine import code_version, require_same
from lora_cl.seeding import seed_for
from lora_cl.text import one_line
from lora_cl.training import loop
from lora_cl.training.optimizers import make_optimizer


def base_network(
    config: Config,
    seed: int,
    input_shape: torch.Size,
    device: torch.device,
    data_dir: Path | None,
    content: Mapping[str, str],
) -> Network:
    """The network that every method of this seed starts from, without heads, on ``device``.

    A pretrained backbone is cached beside the data sets, under the hash of all that decides it.
    Weights or data that are not those that ``content`` names are a ResultsError.
    """
    network = build_network(config.model, input_shape, seed_for(seed, "backbone")).to(device)
    if config.base.weights is not None:
        require_same(content, "base.weights", weights_checksum(Path(config.base.weights)))
        load_weights(network, Path(config.base.weights))
    elif config.base.pretrain is not None:
        data = _pretrain_data(config, data_dir)
        require_same(content, "base.pretrain.dataset", data.checksum)
        key = _key(config, seed, input_shape, device, data)
        cached = data_root(data_dir) / "bases" / f"{key}.safetensors"
        try:
            tensors, meta = load_tensors(cached)
            require_owner(cached, meta, key=key)
        except ResultsError:
            _pretrain(network, config, seed, data)
            cached.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(cached, network.backbone.state_dict(), {"key": key})
        else:
            network.backbone.load_state_dict(tensors)
    return network


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
        return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", "base.weights") from None


def _key(
    config: Config, seed: int, input_shape: torch.Size, device: torch.device, data: Dataset
) -> str:
    assert config.base.pretrain is not None
    decides: dict[str, Any] = {
        "input": list(input_shape),
        "model": config.model.model_dump(mode="json"),
        "pretrain": config.base.pretrain.model_dump(mode="json"),
        "train": config.train.model_dump(mode="json"),
        "seed": seed,
        "threads": config.threads,
        "torch": torch.__version__,
        "device": device.type,
        "code": [code_version(), code_of(BACKBONES[config.model.name])],
        "data": data.checksum,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _pretrain_data(config: Config, data_dir: Path | None) -> Dataset:
    assert config.base.pretrain is not None
    options = config.base.pretrain.dataset
    return DATASETS[options.name](options).load(data_root(data_dir))


def _pretrain(network: Network, config: Config, seed: int, data: Dataset) -> None:
    """Trains backbone and a head that is thrown away, with the run's own training options."""
    pretrain, train = config.base.pretrain, config.train
    assert pretrain is not None
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
