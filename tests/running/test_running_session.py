"""A run that is cut off anywhere and started again ends as one that was left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_cl.running.runner import Outcome, Where, run_one
from lora_cl.testing.interrupting import cut_and_compare
from lora_cl.testing.runs import one_run, outcome


@pytest.mark.parametrize(
    ("method", "scenario", "overrides"),
    [
        ("full: {}", "class", ["train.optimizer=sgd", "train.momentum=0.9"]),
        ("full: {}", "task", ["train.optimizer_state=keep", "train.schedule=cosine"]),
        ("lora: {}", "task", ["train.optimizer_state=keep", "train.optimizer=adamw"]),
        ("full: {}", "class", ["train.optimizer_state=keep", "train.head_lr=0.1"]),
        ("shared_private: {train: {head_lr: 0.1, schedule: cosine}}", "task", []),
        ("full: {}", "domain", ["validation=0.25", "train.schedule=linear"]),
        ("lora: {}", "task", ["validation=0.25"]),
        ("lora: {router: prototype}", "class", ["validation=0.25"]),
        ("packnet: {train: {iterations: 5, lr: 0.02}}", "task", ["train.head_lr=0.002"]),
        ("full: {}", "task", ["model.dropout=0.5", "train.clip_norm=0.1"]),
        ("lora: {}", "task", ["model.dropout=0.5", "cache=false"]),
        (
            "full: {}",
            "domain",
            ["train.epochs=null", "train.iterations=7", "train.schedule=linear"],
        ),
        ("full: {adapter: lora}", "class", []),
        ("ewc: {adapter: dora}", "domain", []),
        ("frozen: {classifier: ncm}", "domain", []),
        ("lora: {router: entropy}", "class", []),
        ("lora: {router: prototype}", "domain", []),
        ("lora: {router: energy}", "domain", []),
        ("lora: {router: mahalanobis}", "class", ["validation=0.25"]),
        ("independent: {router: mahalanobis}", "domain", []),
        ("lora: {targets: last-1}", "task", []),
        ("full: {}", "task", ["benchmark.class_order=shuffled", "benchmark.max_train_samples=33"]),
        ("ewc: {}", "class", ["benchmark.name=permuted"]),
        ("full: {output_layer: one}", "task", ["train.optimizer_state=keep"]),
        ("si: {output_layer: one, gradient: whole}", "task", ["train.optimizer_state=keep"]),
        ("ewc: {output_layer: one, adapter: lora}", "task", ["train.head_lr=0.1"]),
        ("lwf: {output_layer: one, classifier: local}", "class", []),
        ("replay: {output_layer: one, per_class: 2}", "task", ["train.optimizer_state=keep"]),
    ],
)
def test_other_options_resume_bit_identically(
    method: str,
    scenario: str,
    overrides: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = one_run(method, scenario, *overrides)
    assert run is not None
    cut_and_compare(run, tmp_path, monkeypatch)


def test_what_is_no_part_of_the_hash_changes_no_byte(tmp_path: Path) -> None:
    for method in ("lora: {}", "frozen: {}", "full: {}"):
        one, other = one_run(method), one_run(method, "task", "checkpoint_seconds=9")
        assert one is not None
        assert other is not None
        assert one.folder == other.folder
        assert run_one(one, Where(tmp_path / "a")) == Outcome("done")
        assert run_one(other, Where(tmp_path / "b")) == Outcome("done")
        assert outcome(tmp_path / "a" / one.folder) == outcome(tmp_path / "b" / one.folder)
