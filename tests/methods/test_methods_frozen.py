from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from method_cases import run_one
from shared_backbone_cases import (
    experiment,
    learn,
    method_on,
    trunk_bytes,
)

import lora_cl
from lora_cl.methods.frozen import Frozen
from lora_cl.methods.means import NearestMean

NCM = "{method: frozen, classifier: ncm}"

ABSENT = """
name: m
benchmark: {{name: split, dataset: {{name: npz, path: {path}}}, tasks: 2, max_train_samples: 30}}
scenario: class
model: {{name: mlp, hidden: [32]}}
train: {{epochs: 20, batch_size: 10, lr: 0.01}}
methods:
  ncm: {{method: frozen, classifier: ncm}}
  ind: {{method: independent, router: prototype}}
"""


def frozen(method: str = NCM, scenario: str = "task") -> Frozen:
    made = method_on(method, scenario)
    assert isinstance(made, Frozen)
    return made


def head_of(method: Frozen, task_id: int) -> NearestMean:
    answers = method.network.get_submodule("answers")
    head = answers.get_submodule(method.head_name(task_id))
    assert isinstance(head, NearestMean)
    return head


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_the_means_written_out(scenario: str) -> None:
    method = frozen(scenario=scenario)
    learn(method, [0, 1])
    tasks = [method.benchmark.task(k) for k in (0, 1)]
    with torch.no_grad():
        features = [method.network.backbone(task.train().x) for task in tasks]
    labels = [task.train().y for task in tasks]
    h = {(k, c): features[k][labels[k] == c] for k in (0, 1) for c in (0, 1)}
    if scenario == "domain":  # One head; a label's mean is over both tasks.
        rows = [torch.cat([h[0, c], h[1, c]]) for c in (0, 1)]
        found = [head_of(method, 1)]
    elif scenario == "class":
        rows = [h[0, 0], h[0, 1], h[1, 0], h[1, 1]]
        found = [head_of(method, 1)]
    else:
        rows = [h[0, 0], h[0, 1], h[1, 0], h[1, 1]]
        found = [head_of(method, 0), head_of(method, 1)]
    x = method.benchmark.task(0).test().x
    with torch.no_grad():
        h_test = method.network.backbone(x)
        logits = torch.cat([head(h_test) for head in found], dim=1)
    right = torch.stack([h_test @ m - m @ m / 2 for m in (row.mean(0) for row in rows)], dim=1)
    assert right.shape[1] == (2 if scenario == "domain" else 4)
    torch.testing.assert_close(logits[:, : right.shape[1]], right)
    # In class-incremental runs, two classes have not come yet.
    assert logits.shape[1] == (6 if scenario == "class" else right.shape[1])


def test_a_class_without_samples_is_never_the_answer(tmp_path: Path) -> None:
    """Four clusters far apart, a quarter of the test samples each; the fourth has two training
    samples, which the limit of 30 leaves out: 75 % is the most possible, and found."""
    numbers = np.random.default_rng(0)

    def samples(counts: list[int]) -> tuple[Any, Any]:
        y = np.repeat(np.arange(4), counts)
        return (8 * np.eye(8)[y] + numbers.normal(size=(len(y), 8))).astype(np.float32), y

    (x, y), (x_test, y_test) = samples([100, 100, 100, 2]), samples([25] * 4)
    path = tmp_path / "a.npz"
    np.savez(path, x=x, y=y, x_test=x_test, y_test=y_test)
    one = lora_cl.parse_config(ABSENT.format(path=path), "t")
    records = lora_cl.run(one, results=tmp_path / "r", jobs=0, device="cpu", progress=False)
    assert [record.label for record in records] == ["ncm", "ind"]
    ncm, ind = records
    assert ncm.result["accuracy_matrix"][-1] == pytest.approx([1.0, 0.5], abs=0.021)
    assert ncm.result["accuracy_matrix"][-1][1] <= 0.5
    method = lora_cl.load_run(ncm.folder)
    assert head_of(method, 1).counts.tolist()[3] == 0
    with method.view(1) as network:
        network.eval()
        inputs = torch.from_numpy(x_test)
        for size in (1, 3, 25, 26, 100):
            found = torch.cat([network(part).argmax(1) for part in torch.split(inputs, size)])
            assert found[75:].ne(3).all()
            assert int(found.eq(torch.from_numpy(y_test)).sum()) in (73, 74, 75)
    # The prototype router of the same data: no prototype for that class, so two and one.
    assert [len(lora_cl.load_run(ind.folder).kept[f"prototypes.{k}"]) for k in (0, 1)] == [2, 1]


def test_nothing_is_measured_before_there_are_means(tmp_path: Path) -> None:
    """In a domain-incremental run a fresh linear head answers for all tasks; no means do not."""
    ncm = run_one(experiment(NCM, "domain"), tmp_path / "ncm").result
    linear = run_one(experiment("{method: frozen}", "domain"), tmp_path / "linear").result
    assert ncm["untrained_accuracy"] is None
    assert len(linear["untrained_accuracy"]) == 3
    assert [value is None for value in ncm["accuracy_matrix"][0]] == [False, False, True]
    assert ncm["cost"]["trained_params_per_task"] == 0


def test_costs_by_hand() -> None:
    method = frozen()
    trunk = trunk_bytes(method)
    for task_id in range(3):
        learn(method, [task_id])
        # Sums of 16 features in 4 bytes and a count in 8 bytes, for two classes a task.
        assert method.stored_bytes() == trunk + (task_id + 1) * 2 * (16 * 4 + 8)
        assert method.total_parameters() == trunk // 4
    linear = frozen("{method: frozen}")
    learn(linear, [0])
    assert linear.total_parameters() == trunk // 4 + 16 * 2 + 2
