"""(f) LoRA on MiniLM: our steps against PEFT on transformers, and frozen features kept."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lora_cl.config import RunConfig
from lora_cl.data import data_root
from lora_cl.data.cache import clear
from lora_cl.models.text import MINILM
from tests.bench.measure import (
    MemoryGrowth,
    Row,
    Setting,
    at_least,
    at_most,
    ratio,
    same_loss,
    take_turns,
)
from tests.bench.sides import Recorded, in_process, one_thread, run_config

RANK, ALPHA = 4, 8
FACTOR = r"backbone\.model\.(.*)\.adapters\.[^.]+\.(lora_[AB])\.weight"


def rows(setting: Setting) -> list[Row]:
    """A round is one task of WordNet: two classes, batches of 32 glosses.

    Memory is what the steps take at their peak beside what was there before the first.
    """
    per_class = setting.of(128, 64)
    run = _run({"lora": {"rank": RANK, "alpha": ALPHA}}, per_class, epochs=1)
    records: list[Recorded] = []
    grown: dict[str, list[float]] = {"ours": [], "peft": []}

    def ours() -> float:
        _, records[:] = in_process(run, setting.scratch / "text")
        grown["ours"].append(float(records[0].grown_bytes or 0))
        return records[0].seconds

    def theirs() -> float:
        record = records[0]
        with one_thread():
            seconds, loss, peak = _peft_steps(MINILM.fetch(data_root()), record)
        grown["peft"].append(float(peak or 0))
        same_loss("lora on MiniLM", loss, record.last_loss, 1e-2)
        return seconds

    seconds = take_turns(setting.of(3, 1), {"ours": ours, "peft": theirs}, warm_up=False)
    steps = records[0].total_steps
    ms = {name: 1000 * median(values) / steps for name, values in seconds.items()}
    faster = ratio(seconds, "peft", "ours")
    name = "(f) PEFT on transformers / step of lora on MiniLM"
    found = [at_least(1.3, name, ms["ours"], ms["peft"], "ms a step", faster)]
    if all(min(peaks) > 0 for peaks in grown.values()):
        mib = {side: median(peaks) / 2**20 for side, peaks in grown.items()}
        less = ratio(grown, "ours", "peft")
        name = "(f) memory of the steps of lora on MiniLM / PEFT on transformers"
        found.append(at_most(1.0, name, mib["ours"], mib["peft"], "MiB", less))
    found.append(_second_seed(setting))
    return found


def _second_seed(setting: Setting) -> Row:
    """Evaluating ``frozen`` after each of four tasks of WordNet, by a first seed and by one that
    finds the features of all texts kept."""
    root = setting.scratch / "data"
    root.mkdir()
    for name in ("models", "wordnet"):
        (root / name).symlink_to(data_root() / name)
    data = {"name": "wordnet", "classes": 8, "train_per_class": 64, "test_per_class": 50}

    def evaluating(seed: int) -> float:
        if seed == 0:
            clear(root, "features")
        run = run_config(
            {"frozen": {}},
            benchmark={"name": "split", "dataset": data, "tasks": 4, "class_order": "shuffled"},
            model={"name": "transformers", "model": "minilm"},
            train={"epochs": 1, "batch_size": 32, "lr": 1e-3},
            seeds=[seed],
        )
        result, _ = in_process(run, setting.scratch / "text", root)
        return float(result["cost"]["eval_seconds"])

    sides = {"first": lambda: evaluating(0), "second": lambda: evaluating(1)}
    seconds = take_turns(setting.of(3, 1), sides, warm_up=False)
    ms = {name: 1000 * median(values) for name, values in seconds.items()}
    faster = ratio(seconds, "first", "second")
    name = "(f) evaluating frozen on MiniLM: first seed / second, with the features kept"
    return at_least(20.0, name, ms["second"], ms["first"], "ms", faster)


def _run(method: dict[str, Any], per_class: int, epochs: int) -> RunConfig:
    data = {"name": "wordnet", "classes": 2, "train_per_class": per_class, "test_per_class": 1}
    return run_config(
        method,
        benchmark={"name": "split", "dataset": data, "tasks": 1},
        model={"name": "transformers", "model": "minilm", "dropout": 0.0},
        train={"epochs": epochs, "batch_size": 32, "lr": 1e-3},
    )


def _peft_steps(folder: Path, record: Recorded) -> tuple[float, float, int | None]:
    """The same steps as people write them: each batch padded to its longest text.

    Their seconds, the last loss, and by how many bytes memory grew.
    """
    import time

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModel

        base = AutoModel.from_pretrained(folder, add_pooling_layer=False)
        for module in base.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        targets = ["query", "key", "value", "dense"]
        model = get_peft_model(base, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets))
    weights = model.state_dict()
    taken = 0
    for name, value in record.weights.items():
        if match := re.fullmatch(
            r"backbone\.model\.(.*)\.adapters\.[^.]+\.(lora_[AB])\.weight", name
        ):
            weights[f"base_model.model.{match[1]}.{match[2]}.default.weight"].copy_(value)
            taken += 1
    assert taken == 72  # Two factors on six layers of six Linears.
    head = nn.Linear(384, 2)
    head.weight.data.copy_(record.weights["heads.0.weight"])
    head.bias.data.copy_(record.weights["heads.0.bias"])
    trained = [p for p in (*model.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-3)
    model.train()
    order, loss = record.order(0), torch.zeros(())
    growth = MemoryGrowth()
    start = time.process_time()
    for rows in torch.split(order, record.batch_size):
        tokens, there = _padded(record.x[rows])
        hidden = model(input_ids=tokens, attention_mask=there).last_hidden_state
        weight = there.unsqueeze(2).to(hidden.dtype)
        features = (hidden * weight).sum(1) / weight.sum(1)
        loss = F.cross_entropy(head(features), record.y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.process_time() - start, float(loss), growth.bytes()


def _padded(rows: Tensor) -> tuple[Tensor, Tensor]:
    there = rows >= 0
    width = int(there.sum(1).max())
    return rows[:, :width].clamp(min=0).long(), there[:, :width].long()
