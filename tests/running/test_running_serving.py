"""A bank in memory answers as the run's views do, alone and in mixed batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import lora_cl
from lora_cl.errors import MethodError
from lora_cl.running.serving import AdapterBank
from lora_cl.testing.runs import run_done

CONFIG = """
name: serving
benchmark: {{name: {benchmark}}}
model: {model}
train: {{iterations: 3, batch_size: 16, lr: 0.02}}
methods: {{{method}}}
"""
CLUSTERS = "split, tasks: 3, dataset: {name: synthetic, classes: 6, features: 12}"
IMAGES = (
    "sequence, size: 8, datasets: [{name: digits}, {name: digits}, "
    "{name: synthetic, classes: 3, shape: [1, 8, 8]}], max_train_samples: 60, max_test_samples: 20"
)
MLP = "{name: mlp, hidden: [10, 8]}"
CASES = [
    (MLP, CLUSTERS, "lora: {rank: 2}"),
    (MLP, CLUSTERS, "lora: {rank: 2, scaling: rslora, targets: last-1}"),
    (MLP, CLUSTERS, "dora: {rank: 2}"),
    (MLP, CLUSTERS, "adalora: {rank: 3, target_rank: 2, every: 1}"),
    (MLP, CLUSTERS, "qlora: {rank: 2}"),
    ("{name: cnn, channels: [4, 6], hidden: 8}", IMAGES, "lora: {rank: 2}"),
    ("{name: vit, width: 16, depth: 2, heads: 2, patch: 4}", IMAGES, "lora: {rank: 2}"),
    ("{name: timm, model: test_vit, size: 32}", IMAGES, "lora: {rank: 2}"),
    # Its projections are given (L, N, E): the samples lie in the second dimension.
    ("{name: 'encoder_backbone:Encoder'}", IMAGES, "lora: {rank: 2}"),
    ("{name: 'encoder_backbone:Encoder'}", IMAGES, "dora: {rank: 2, targets: attention}"),
]


def bank_of(case: tuple[str, str, str], place: Path) -> tuple[AdapterBank, list[torch.Tensor]]:
    model, benchmark, method = case
    folder = run_done(CONFIG.format(model=model, benchmark=benchmark, method=method), place)
    restored = lora_cl.load_run(folder)
    x = restored.benchmark.task(0).test().x[:5]
    answers = []
    for task in range(3):
        with torch.inference_mode(), restored.view(task) as network:
            answers.append(network(x))
    return lora_cl.load_bank(folder), [x, *answers]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0][7:11]}-{case[2][:12]}")
def test_it_answers_as_the_views_do(case: tuple[str, str, str], tmp_path: Path) -> None:
    bank, (x, *answers) = bank_of(case, tmp_path)
    assert bank.tasks == [0, 1, 2]
    for task in (2, 0, 1, 0):
        with bank.task(task) as network, torch.inference_mode():
            assert torch.equal(network(x), answers[task])
    # Each input for every task, in an order of no use.
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    rows, tasks = order % 5, order // 5
    logits = bank(x[rows], tasks)
    differing = 0
    for logit, row, task in zip(logits, rows.tolist(), tasks.tolist(), strict=True):
        wanted = answers[task][row]
        torch.testing.assert_close(logit[: len(wanted)], wanted, rtol=1e-5, atol=1e-5)
        assert bool((logit[len(wanted) :] == float("-inf")).all())
        other = answers[(task + 1) % 3][row]
        differing += len(other) != len(wanted) or bool((other - wanted).abs().max() > 1e-3)
    assert differing == 15
    labels, probabilities, owners = bank.predict(x[rows], tasks)
    assert owners is not None
    assert torch.equal(owners, tasks)
    assert labels == [
        bank.method.benchmark.class_names(task)[int(answers[task][row].argmax())]
        for row, task in zip(rows.tolist(), tasks.tolist(), strict=True)
    ]
    torch.testing.assert_close(probabilities.sum(1), torch.ones(15))


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> AdapterBank:
    return bank_of(CASES[0], tmp_path_factory.mktemp("bank"))[0]


def test_a_network_is_of_use_inside_its_with_alone(bank: AdapterBank) -> None:
    x = torch.zeros(2, 12)
    with bank.task(1) as network:
        network(x)
        with pytest.raises(MethodError, match="task 1 is in use"), bank.task(0):
            pass
        with pytest.raises(MethodError, match="task 1 is in use"):
            bank(x, [0, 1])
        network(x)
    with pytest.raises(MethodError, match="its `with` has ended"):
        network(x)
    with bank.task(0), pytest.raises(MethodError, match="its `with` has ended"):
        network(x)


def test_after_an_error_inside_the_bank_goes_on(bank: AdapterBank) -> None:
    def fail() -> None:
        with bank.task(1):
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
    with pytest.raises(RuntimeError):
        bank(torch.zeros(2, 11), [0, 1])
    assert bank(torch.zeros(2, 12), [0, 1]).shape == (2, 2)


@pytest.mark.parametrize(
    ("tasks", "said"),
    [([0, 3], "task 3 is not in the bank; there are: 0, 1, 2"), ([0], "need as many tasks")],
)
def test_wrong_tasks(tasks: list[int], said: str, bank: AdapterBank) -> None:
    with pytest.raises(MethodError, match=said):
        bank(torch.zeros(2, 12), tasks)
    with pytest.raises(MethodError, match="is not in the bank"), bank.task(9):
        pass


def test_a_run_without_adapters_per_task_has_no_bank(tmp_path: Path) -> None:
    text = CONFIG.format(model=MLP, benchmark=CLUSTERS, method="full: {}")
    with pytest.raises(MethodError, match="full: has no adapter per task"):
        lora_cl.load_bank(run_done(text, tmp_path))


def test_a_network_whose_rows_meet_is_refused(tmp_path: Path) -> None:
    """Where samples lie in another dimension than the first, none may get another's adapter."""
    bank, (x, *_) = bank_of(CASES[0], tmp_path)
    backbone = bank.method.network.backbone
    layer = bank.layers[1]
    backbone.linear2 = Turned(layer)
    with pytest.raises(MethodError, match="cannot be mixed"):
        bank(x[:3], [0, 1, 2])
    backbone.linear2 = layer
    assert bank(x[:3], [0, 1, 2]).shape == (3, 2)


class Turned(torch.nn.Module):
    """Gives its layer the rows in another order, and turns the answers back."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x.flip(0)).flip(0)
        return out
