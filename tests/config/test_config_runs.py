"""What a run is called: the hash covers all that decides its result, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from lora_cl.config import RunConfig, parse_config
from lora_cl.config.model import Config
from lora_cl.models import build_network
from lora_cl.options import OptionsBase
from lora_cl.records.folders import CONFIG
from lora_cl.running.preparation import prepare
from lora_cl.running.runner import Where, run_one

GOOD = """name: t
benchmark: {name: split, dataset: {name: synthetic, classes: 6}, tasks: 3}
model: {hidden: [4]}
methods:
  lora: {rank: 2}
"""

CHANGES = [
    "scenario=class",
    "benchmark.tasks=2",
    "benchmark.class_order=shuffled",
    "benchmark.max_train_samples=10",
    "benchmark.max_test_samples=10",
    "benchmark.dataset.features=16",
    "benchmark.dataset.seed=1",
    "benchmark={name: split, dataset: digits}",
    "model.hidden=[5]",
    "model.dropout=0.5",
    "base.pretrain={dataset: {name: synthetic, classes: 3}}",
    "base.pretrain={dataset: {name: synthetic, classes: 4}}",
    "train.epochs=2",
    "train.batch_size=64",
    "train.optimizer=adamw",
    "train.lr=0.01",
    "train.head_lr=0.001",
    "methods.lora.train={lr: 0.02}",
    "train.weight_decay=0.1",
    "train.schedule=cosine",
    "train.clip_norm=1.0",
    "train.optimizer_state=keep",
    "train={optimizer: sgd, momentum: 0.5}",
    "methods={lora: {rank: 4}}",
    "methods={dora: {rank: 2}}",
    "methods.lora.classifier=local",
    "budget={stored_bytes: 100000}",
    "methods.lora.tuned={keys: [rank], trials: 2, trace: 'sha256:0'}",
    "seeds=[1]",
    "threads=2",
    "cache=false",
    "validation=0.1",
    "train.micro_batch=8",
    "train.precision=bf16",
    "probe={dataset: {name: synthetic, seed: 1}}",
]


def runs(text: str = GOOD, *overrides: str, source: str = "c.yaml") -> list[RunConfig]:
    return prepare(parse_config(text, source, overrides), None, print)


def test_every_key_that_decides_the_result_is_in_the_hash() -> None:
    hashes = {change: runs(GOOD, change)[0].run_hash for change in CHANGES}
    hashes["nothing"] = runs()[0].run_hash
    # They need the one before it.
    hashes["learning_curve"] = runs(GOOD, "validation=0.1", "learning_curve=3")[0].run_hash
    hashes["tuning"] = runs(GOOD, "validation=0.1", "tuning={tasks: 2}")[0].run_hash
    assert len(set(hashes.values())) == len(CHANGES) + 3 == 38
    changed = {"learning_curve", "tuning"} | {
        change.partition("=")[0].partition(".")[0] for change in CHANGES
    }
    assert changed | unhashed(Config) | {"name"} == set(Config.model_fields)


def test_names_are_not() -> None:
    """Of experiment and method: what a run is called makes no number."""
    (plain,) = runs()
    (renamed,) = runs(GOOD, "name=u", "methods={l: {method: lora, rank: 2}}")
    assert renamed.run_hash == plain.run_hash
    assert str(renamed.folder) == f"u/l/seed0-{plain.run_hash[:8]}"


def test_what_besides_the_config_makes_a_result_is() -> None:
    (run,) = runs()
    assert run.content.keys() == {"code", "torch", "device", "benchmark.dataset"}
    config = parse_config(GOOD, "c.yaml").config
    hashes = {run.run_hash}
    for key in run.content:
        other = RunConfig.of(config, "lora", 0, {**run.content, key: "other"})
        hashes |= {other.run_hash, other.config_hash}
    assert len(hashes) == 1 + 2 * 4


def test_what_changes_no_result_is_not(tmp_path: Path) -> None:
    (plain,) = runs()
    (other,) = runs(GOOD, "checkpoint_seconds=1", "stream=true", source="elsewhere.yaml")
    assert plain.folder == other.folder
    reordered = "\n".join(
        reversed(GOOD.replace("methods:\n  lora:", "method: {name: lora,").split("\n"))
    )
    (short,) = runs(reordered.replace(", {rank", ", rank"))
    assert short.folder == plain.folder
    assert unhashed(Config) == {"checkpoint_seconds", "compile", "resources", "stream"}


def unhashed(options: type[OptionsBase]) -> set[str]:
    extras = {name: field.json_schema_extra for name, field in options.model_fields.items()}
    return {k for k, v in extras.items() if isinstance(v, dict) and v.get("hashed") is False}


def test_seeds_share_a_config_hash() -> None:
    three = runs(GOOD, "seeds=3")
    assert [run.seed for run in three] == [0, 1, 2]
    assert len({run.config_hash for run in three}) == 1
    assert len({run.run_hash for run in three}) == 3
    assert three[1].folder == runs(GOOD, "seeds=[1]")[0].folder
    assert str(three[1].folder) == f"t/lora/seed1-{three[1].run_hash[:8]}"


def test_files_count_by_content_and_not_by_path(tmp_path: Path) -> None:
    one, copy, other = (tmp_path / f"{name}.npz" for name in ("one", "copy", "other"))
    x, y = np.random.default_rng(0).normal(size=(60, 5)), np.repeat(range(6), 10)
    np.savez(one, x=x, y=y)
    shutil.copy(one, copy)
    np.savez(other, x=x + 1, y=y)
    hashes = {
        path: runs(GOOD, f"benchmark.dataset={{name: npz, path: {path}}}")[0].run_hash
        for path in (one, copy, other)
    }
    assert hashes[one] == hashes[copy] != hashes[other]
    np.savez(copy, x=x + 2, y=y)
    changed = runs(GOOD, f"benchmark.dataset={{name: npz, path: {copy}}}")[0].run_hash
    assert changed not in hashes.values()


def test_base_weights_count_by_content(tmp_path: Path) -> None:
    config = parse_config(GOOD, "c.yaml").config
    paths = [tmp_path / f"{name}.safetensors" for name in ("one", "copy", "other")]
    for path, seed in zip(paths, (0, 0, 1), strict=True):
        save_file(build_network(config.model, torch.Size([32]), seed).backbone.state_dict(), path)
    one, copy, other = (runs(GOOD, f"base.weights={path}")[0].run_hash for path in paths)
    assert one == copy != other
    assert runs()[0].run_hash not in (one, other)


def test_the_resolved_config_is_the_same_run(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.eye(60, 5), y=np.repeat(range(6), 10))
    for change in (
        "name=u",
        "methods={l: {method: lora, rank: 2}}",
        *CHANGES,
        f"benchmark.dataset={{name: npz, path: {tmp_path / 'a.npz'}}}",
    ):
        (run,) = runs(GOOD, change)
        (again,) = runs(run.to_yaml())
        assert again == run
        assert again.to_yaml() == run.to_yaml()


def test_the_config_in_a_run_folder_is_the_same_run(tmp_path: Path) -> None:
    (run,) = runs(GOOD, "name='1e5'", "benchmark.dataset.train_per_class=4")
    assert run_one(run, Where(tmp_path)).status == "done"
    (again,) = runs((tmp_path / run.folder / CONFIG).read_text())
    assert again == run
