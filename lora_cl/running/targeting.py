"""`targets: {auto: k}`: the layers that a short full fine-tune on the first task moves most."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lora_cl.adapters import full_layers
from lora_cl.benchmarks import Benchmark
from lora_cl.config import Config
from lora_cl.config.train import StepOptions
from lora_cl.data import data_root
from lora_cl.errors import ConfigError, ResultsError
from lora_cl.methods.shared import AutoTargets
from lora_cl.models import Network
from lora_cl.running.arithmetic import reproducible
from lora_cl.running.base import fit_with_head
from lora_cl.running.checkpoints import load_tensors, require_owner, save_tensors

Choice = dict[str, float]
"""Layer to how far it moved, relative to itself, for every layer chosen from, the largest first."""


def auto_targets(options: Any) -> AutoTargets | None:
    """What a method's options leave to the data, if they do."""
    targets = getattr(getattr(options, "adapter", None) or options, "targets", None)
    return targets if isinstance(targets, AutoTargets) else None


def with_targets(options: Any, layers: list[str]) -> Any:
    """``options`` with ``layers`` in the place of what they leave open."""
    adapter = getattr(options, "adapter", None)
    if adapter is None:
        return options.model_copy(update={"targets": layers})
    return options.model_copy(update={"adapter": with_targets(adapter, layers)})


def candidates(network: Network, auto: AutoTargets) -> list[str]:
    """The layers to choose from; ConfigError if there are fewer than are asked for."""
    layers = list(full_layers(network.backbone))
    if auto.auto > len(layers):
        message = f"targets: auto: {auto.auto} is more than the model's {len(layers)} layers"
        raise ConfigError(f"{message}: {', '.join(layers)}")
    return layers


def choose(
    auto: AutoTargets,
    network: Network,
    benchmark: Benchmark,
    config: Config,
    seed: int,
    data_dir: Path | None,
    content: Mapping[str, str],
) -> Choice:
    """How far every layer moved in a fine-tune of a copy of ``network``, the largest first.

    Of the first task its training samples alone are seen. What was found is kept beside the data
    sets, by the hash of all that decides it.
    """
    layers = candidates(network, auto)
    key = _key(auto, config, seed, network.device, content)
    kept = data_root(data_dir) / "targets" / f"{key}.safetensors"
    try:
        tensors, meta = load_tensors(kept)
        require_owner(kept, meta, key=key)
        moved = tensors["moved"]
    except ResultsError:
        with reproducible(config.threads):  # Whoever asks for it, a run or a reader of one.
            moved = _moved(auto, network, benchmark, config.train.batch_size, seed)
        with suppress(OSError):  # It is a mere cache.
            kept.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(kept, {"moved": moved}, {"key": key})
    found = dict(zip(layers, moved.tolist(), strict=True))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _moved(
    auto: AutoTargets, network: Network, benchmark: Benchmark, batch_size: int, seed: int
) -> Tensor:
    """||W' - W|| / ||W|| of every layer (n,), W' its weight after the fine-tune."""
    task, tuned = benchmark.task(0), copy.deepcopy(network)
    samples = task.train()
    train = StepOptions(batch_size=batch_size, lr=auto.lr)
    fit_with_head(tuned, samples, task.classes, seed, "choice of targets", train, auto.steps)
    after, found = full_layers(tuned.backbone), []
    for name, layer in full_layers(network.backbone).items():
        weights = [_flat(layer), _flat(after[name])]
        norm = weights[0].norm().clamp_min(torch.finfo(torch.float64).tiny)
        found.append((weights[1] - weights[0]).norm() / norm)
    return torch.stack(found)


def _flat(layer: nn.Module) -> Tensor:
    """The weights of a layer, of all its projections if it is an attention, without biases."""
    matrices = [p.detach().double().flatten() for p in layer.parameters() if p.dim() > 1]
    return torch.cat(matrices).cpu()


def _key(
    auto: AutoTargets, config: Config, seed: int, device: torch.device, content: Mapping[str, str]
) -> str:
    left_out = {"name", "methods", "seeds", "train", "stream", "compile", "checkpoint_seconds"}
    decides: dict[str, Any] = {
        "config": config.model_dump(mode="json", exclude=left_out),
        "batch_size": config.train.batch_size,
        "auto": auto.model_dump(mode="json", exclude={"auto"}),
        "seed": seed,
        "device": device.type,
        "content": {k: v for k, v in content.items() if not k.startswith("method.")},
    }
    if config.base.pretrain is not None:
        decides["pretraining"] = config.pretraining().model_dump(mode="json")
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()
