"""What pretraining gave and learning took away: the backbone on classes that no task has."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from lora_cl.benchmarks.benchmark import samples_of
from lora_cl.config import RunConfig
from lora_cl.data import DATASETS, data_root, pixels
from lora_cl.methods.means import NearestMean, class_sums
from lora_cl.models import TaskNetwork, encoded
from lora_cl.running.base import base_network
from lora_cl.running.machine import require_same
from lora_cl.running.session import Session
from lora_cl.training import loop


def probe(
    run: RunConfig, session: Session, device: torch.device, data_dir: Path | None
) -> dict[str, float] | None:
    """Accuracies of the nearest class mean in features of the base, ``before``, and of the backbone
    as the last task sees it, ``after``; None where the config asks for none.

    Means are those of the training samples, accuracies on test samples. A ResultsError if the data
    are not those that the run was prepared with.
    """
    config, root = session.config, data_root(data_dir)
    if config.probe is None:
        return None
    source = DATASETS[config.probe.dataset.name](config.probe.dataset)
    data = source.load(root)
    require_same(run.content, "probe.dataset", data.checksum)
    data = encoded(config.model, data, root)
    classes = config.probe.classes or list(range(data.classes))
    train, test = (
        samples_of(data, part, pixels, classes, device, config.stream) for part in ("train", "test")
    )

    def accuracy(backbone: nn.Module) -> float:
        sums, counts = class_sums(backbone.eval(), train.x, train.y, len(classes))
        means = NearestMean(len(classes), sums.shape[1], device)
        means.add(sums, counts, 0)
        return loop.accuracy(TaskNetwork(backbone, [means], {0: 0}), test.x, test.y)

    base = base_network(config, run.seed, session.benchmark, device, data_dir, run.content)
    before = accuracy(base.backbone)
    with session.method.view(session.benchmark.n_tasks - 1) as network:
        return {"before": before, "after": accuracy(network.backbone)}
