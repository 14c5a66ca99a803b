"""Where every method of a seed starts: the base network, random, pretrained or from a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lora_cl.benchmarks.benchmark import Benchmark, Samples, permutation, samples_of
from lora_cl.config import Config
from lora_cl.config.train import StepOptions
from lora_cl.data import DATASETS, Dataset, data_root, pixels
from lora_cl.data.features import FOLDER, FeatureStore
from lora_cl.data.streaming import subset
from lora_cl.data.weights import misfit, read_safetensors
from lora_cl.errors import ConfigError, DataError, ResultsError
from lora_cl.methods.full import Full
from lora_cl.methods.shared import SharedBackboneOptions
from lora_cl.models import (
    BACKBONES,
    Network,
    TaskNetwork,
    build_network,
    calibrate_norms,
    encoded,
    keep_statistics,
    seed_global_stream,
    seeded,
)
from lora_cl.models.remembering import RememberingBackbone
from lora_cl.options import user_path
from lora_cl.plugins import code_of
from lora_cl.records.files import unwritable
from lora_cl.running.arithmetic import arithmetic, reproducible
from lora_cl.running.checkpoints import load_tensors, require_owner, save_tensors
from lora_cl.running.machine import code_version, require_same
from lora_cl.seeding import seed_for
from lora_cl.training import loop
from lora_cl.training.optimizers import make_optimizer

NORM_SAMPLES = 512

NOTHING: Mapping[str, str] = {}


def base_network(
    config: Config,
    seed: int,
    benchmark: Benchmark,
    device: torch.device,
    data_dir: Path | None,
    content: Mapping[str, str] = NOTHING,
) -> Network:
    """The network that every method of this seed starts from, without heads, on ``device``, in eval
    mode.

    A pretrained backbone is cached beside the data sets, under the hash of all that decides it.
    Where it cannot be, every run trains it anew, to the same bytes.
    The norms of a random one, which have seen no data, get the statistics of inputs of the first
    task; those of a pretrained one keep theirs. Weights or data that are not those that ``content``
    names are a ResultsError.
    """
    input_shape = benchmark.input_shape
    root = data_root(data_dir)
    weights = BACKBONES[config.model.name].pretrained(config.model)
    network = bare_network(config, seed, input_shape, device, data_dir, content)
    if config.base.weights is not None:
        require_same(content, "base.weights", weights_checksum(Path(config.base.weights)))
        load_weights(network, Path(config.base.weights))
    elif config.base.pretrain is not None:
        data = _pretrain_data(config, data_dir)
        require_same(content, "base.pretrain.dataset", data.checksum)
        begins_with = weights.checksum(root) if weights else None
        key = _key(config, seed, input_shape, device, data, begins_with)
        cached = root / "bases" / f"{key}.safetensors"
        try:
            tensors, meta = load_tensors(cached)
            require_owner(cached, meta, key=key)
        except ResultsError:
            with reproducible(config.threads):  # Whoever asks for it, a run or a reader of one.
                _pretrain(network, config, seed, data)
            with suppress(OSError):  # It is a mere cache.
                cached.parent.mkdir(parents=True, exist_ok=True)
                save_tensors(cached, network.backbone.state_dict(), {"key": key})
        else:
            network.backbone.load_state_dict(tensors)
    elif weights is not None:
        if config.cache and isinstance(network.backbone, RememberingBackbone):
            network.backbone.remember(_features_of(config, weights.checksum(root), root))
    elif keep_statistics(network.backbone):
        x = benchmark.task(0).train().x
        chosen = permutation(len(x), seed_for(seed, "norm statistics"))[:NORM_SAMPLES]
        calibrate_norms(network.backbone, subset(x, chosen.to(device))[:NORM_SAMPLES])
    return network.eval()


def bare_network(
    config: Config,
    seed: int,
    input_shape: torch.Size,
    device: torch.device,
    data_dir: Path | None,
    content: Mapping[str, str] = NOTHING,
) -> Network:
    """The network as its model's options make it, before data or files of weights shape it; no
    data set is needed. It is what the learned state of a run is loaded into."""
    root = data_root(data_dir)
    if weights := BACKBONES[config.model.name].pretrained(config.model):
        require_same(content, "model.weights", weights.checksum(root))
    seed = seed_for(seed, "backbone")
    return build_network(config.model, input_shape, seed, root).to(device)


def _features_of(config: Config, weights: str, root: Path) -> FeatureStore:
    decides: dict[str, Any] = {
        "model": config.model.model_dump(mode="json"),
        "weights": weights,
        "threads": config.threads,
        "torch": torch.__version__,
        "code": [code_version(), code_of(BACKBONES[config.model.name])],
        "arithmetic": arithmetic(),
    }
    key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
    return FeatureStore(root / FOLDER / key)


def uncached_bases(config: Config, data_dir: Path | None) -> str:
    """Why pretrained backbones cannot be kept for other runs, in a line; empty where they can."""
    if config.base.pretrain is None:
        return ""
    folder = data_root(data_dir) / "bases"
    reason = unwritable(folder)
    told = f"{folder}: cannot be written to ({reason}): each run pretrains a base that is not there"
    return told if reason else ""


def load_weights(network: Network, path: Path) -> None:
    """Backbone weights from a safetensors file of lora-cl, or a plain one with the same names.

    Raises ConfigError if it cannot be read or is a ``misfit`` for this backbone.
    """
    path = user_path(path)
    tensors = _read(path)
    for prefix in ("method.network.backbone.", "network.backbone.", "backbone."):
        if any(name.startswith(prefix) for name in tensors):
            tensors = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            break
    expected = network.backbone.state_dict()
    if problem := misfit(expected, tensors):
        message = f"{path}: does not hold this backbone: {problem}"
        raise ConfigError(message, "base.weights")
    network.backbone.load_state_dict(tensors)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return read_safetensors(path)
    except DataError as error:
        raise ConfigError(str(error), "base.weights") from None


def weights_checksum(path: Path) -> str:
    """The sha256 of a weights file; ConfigError if it cannot be read."""
    try:
        return f"sha256:{hashlib.sha256(user_path(path).read_bytes()).hexdigest()}"
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", "base.weights") from None


def _key(
    config: Config,
    seed: int,
    input_shape: torch.Size,
    device: torch.device,
    data: Dataset,
    weights: str | None,
) -> str:
    assert config.base.pretrain is not None
    decides: dict[str, Any] = {
        "input": list(input_shape),
        "model": config.model.model_dump(mode="json"),
        "pretrain": config.base.pretrain.model_dump(mode="json", exclude={"train"}),
        "train": config.pretraining().model_dump(mode="json"),
        "seed": seed,
        "threads": config.threads,
        "torch": torch.__version__,
        "device": device.type,
        "code": [code_version(), code_of(BACKBONES[config.model.name])],
        "data": data.checksum,
        "weights": weights,
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _pretrain_data(config: Config, data_dir: Path | None) -> Dataset:
    assert config.base.pretrain is not None
    options = config.base.pretrain.dataset
    root = data_root(data_dir)
    return encoded(config.model, DATASETS[options.name](options).load(root), root)


def _pretrain(network: Network, config: Config, seed: int, data: Dataset) -> None:
    """Trains backbone and a head that is thrown away, the same for all methods of a config."""
    pretrain, train = config.base.pretrain, config.pretraining()
    assert pretrain is not None
    classes = pretrain.classes or list(range(data.classes))
    samples = samples_of(data, "train", pixels, classes, network.device, config.stream)
    steps = -(-len(samples.y) // train.batch_size) * pretrain.epochs
    fit_with_head(network, samples, len(classes), seed, "pretraining", train, steps)


def fit_with_head(
    network: Network,
    samples: Samples,
    outputs: int,
    seed: int,
    purpose: str,
    train: StepOptions,
    steps: int,
) -> None:
    """Trains the whole backbone and a head that is thrown away; draws are those of ``purpose``."""
    device = network.device
    with seeded(seed_for(seed, f"{purpose} head")):
        head = nn.Linear(network.features, outputs)
    together = TaskNetwork(network.backbone, [head.to(device)], {0: 0})
    together.requires_grad_(True)
    optimizer = make_optimizer(
        train.optimizer,
        [{"params": list(together.parameters())}],
        train.lr,
        train.weight_decay,
        train.momentum,
        train.head_lr,
        together.heads.parameters(),
    )
    seed_global_stream(seed_for(seed, purpose), device)
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
            len(samples.y), seed_for(seed, f"{purpose} batches", epoch)
        ).to(device),
        clip_norm=train.clip_norm,
        precision=train.precision,
        micro_batch=train.micro_batch,
        progress=loop.Progress(),
        after_step=lambda: None,
        after_epoch=lambda losses: None,
    )
