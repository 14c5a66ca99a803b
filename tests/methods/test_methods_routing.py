from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from private_head_cases import learn, method_on

import lora_cl
from lora_cl.errors import ConfigError
from lora_cl.methods.routing import doubt, nearest_task

SIZES = """
name: sizes
benchmark:
  name: sequence
  size: 6
  datasets:
    - {{name: synthetic, classes: 50, shape: [1, 6, 6], separation: 4, seed: 1}}
    - {{name: synthetic, classes: 2, shape: [1, 6, 6], separation: 4, seed: 2}}
    - {{name: synthetic, classes: 2, shape: [1, 6, 6], separation: 4, seed: 3}}
scenario: class
model: {{hidden: [64]}}
train: {{epochs: {epochs}, batch_size: 32, lr: 0.01}}
methods: {{independent: {{router: entropy}}}}
"""


def logits(*p: float) -> torch.Tensor:
    return torch.tensor([p]).log()


# Entropy


def test_doubt_by_hand() -> None:
    assert float(doubt(logits(0.5, 0.5))) == pytest.approx(1.0)
    assert float(doubt(logits(0.25, 0.25, 0.25, 0.25))) == pytest.approx(1.0)
    # (3/4 ln 4/3 + 1/4 ln 4) / ln 2 = 2 - 3/4 log2 3.
    assert float(doubt(logits(0.75, 0.25))) == pytest.approx(2 - 0.75 * math.log2(3), rel=1e-6)
    # (1/2 ln 2 + 1/2 ln 4) / ln 4 = 3/4, over three of four outputs: one has no share.
    assert float(doubt(logits(0.5, 0.25, 0.25, 0.0))) == pytest.approx(0.75)


def test_one_output_says_nothing() -> None:
    assert doubt(torch.tensor([[3.0], [-2.0]])).tolist() == [1.0, 1.0]


def test_a_sure_head_of_many_outputs_is_found_beside_a_doubtful_one_of_two() -> None:
    """0.9 on one of 50 outputs: 0.716 nats, of 3.912; (0.7, 0.3): 0.611 nats, of 0.693."""
    many, few = logits(0.9, *[0.1 / 49] * 49), logits(0.7, 0.3)
    assert float(doubt(many)) == pytest.approx(0.1824, abs=1e-3)
    assert float(doubt(few)) == pytest.approx(0.8813, abs=1e-3)


def test_a_task_of_many_classes_is_found_among_small_ones(tmp_path: Path) -> None:
    """In nats, not as a share of the most, 54 % of the inputs of the first task are found."""
    one = lora_cl.parse_config(SIZES.format(epochs=2), "t")
    (record,) = lora_cl.run(one, results=tmp_path, jobs=0, device="cpu", progress=False)
    assert record.status == "done"
    found = record.result["routing"]["router_accuracy"][-1]
    assert len(found) == 3
    assert 0.85 < found[0] <= 1.0
    assert all(0.5 < share <= 1.0 for share in found[1:])


# Prototypes


def test_the_nearest_of_all_means_by_hand() -> None:
    means = [torch.tensor([[0.0, 0.0], [9.0, 9.0]]), torch.tensor([[3.0, 3.0]])]
    h = torch.tensor([[1.0, 1.0], [2.0, 2.0], [5.0, 5.0], [8.0, 8.0]])
    assert nearest_task(h, means).tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("size", [1, 7, 26, 300])
def test_the_answer_does_not_depend_on_the_rows_beside(size: int) -> None:
    """Among many rows, distances by a matrix product round otherwise, here to a wrong answer."""
    generator = torch.Generator().manual_seed(0)
    near = torch.rand(300, 8, generator=generator) + 1000
    means = [near[:30] + 0.01, near[30:60] + 0.01, near[60:] + 0.01]
    found = torch.cat([nearest_task(part, means) for part in torch.split(near, size)])
    assert found.bincount().tolist() == [30, 30, 240]


def test_prototypes_are_means_in_the_base_without_dropout() -> None:
    method = method_on("{lora: {router: prototype}}", "class", model="{hidden: [16], dropout: 0.5}")
    task = method.benchmark.task(0)
    learn(method, [0])
    method.network.train()
    method.add_prototypes(task)
    samples = task.train()
    with torch.no_grad():
        features = method.network.backbone.eval()(samples.x)
    right = torch.stack([features[samples.y == label].mean(0) for label in (0, 1)])
    torch.testing.assert_close(method.kept["prototypes.0"], right)


def test_a_router_with_nothing_to_find_is_refused() -> None:
    with pytest.raises(ConfigError, match="router entropy has nothing to find"):
        lora_cl.run(
            lora_cl.parse_config(SIZES.format(epochs=1), "t", ["scenario=task"]), progress=False
        )
