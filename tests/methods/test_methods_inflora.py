from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import input_space_reference as reference
import numpy as np
import pytest
import torch
from low_rank_cases import (
    experiment,
    learn,
    method_on,
)
from method_cases import OPTIMIZERS, SCENARIOS, run_one
from torch import Tensor, nn
from torch.nn import functional

import lora_cl
from lora_cl.adapters import AdaptedLayer, wrap
from lora_cl.benchmarks import Task
from lora_cl.benchmarks.benchmark import Samples
from lora_cl.config import Experiment
from lora_cl.errors import MethodError
from lora_cl.methods.inflora import InfLoRA
from lora_cl.methods.input_space import (
    InputSpace,
    branch_rows,
    input_covariances,
    input_energies,
    remember,
    threshold,
)
from lora_cl.methods.method import Method, task_cross_entropy
from lora_cl.methods.summed import factors
from lora_cl.running.making import make_benchmark

INFLORA = "inflora: {rank: 2}"
EVERYTHING = "{rank: 4, epsilon: 1.0, energy: paper}"
WIDE = "{name: mlp, hidden: [64, 64]}"


def inflora(*args: Any, **named: Any) -> InfLoRA:
    method = method_on(*args, **named)
    assert isinstance(method, InfLoRA)
    return method


def projector(space: InputSpace) -> Tensor:
    """Onto what is remembered, (d, d)."""
    basis = space.basis.double()
    onto = basis @ basis.T
    return torch.eye(len(basis)).double() - onto if space.free else onto


# The formulas


def test_covariance_of_a_linear_layer() -> None:
    backbone = nn.Sequential(nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2))
    wrap(backbone, ["0", "2"])
    x = torch.randn(700, 5)  # more than one chunk
    found = input_covariances(backbone, x)
    assert list(found) == ["0", "2"]
    h = backbone[1](backbone[0](x)).detach()
    torch.testing.assert_close(found["0"], (x.T @ x).double(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found["2"], (h.T @ h).double(), rtol=1e-5, atol=1e-4)
    assert not backbone[0]._forward_pre_hooks


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"stride": 2, "padding": (0, 2), "dilation": (1, 2)},
        {"padding": "same", "padding_mode": "reflect"},
    ],
)
def test_covariance_of_a_convolution(options: dict[str, Any]) -> None:
    # The outputs of any kernel w have the energy w C w^T.
    layer = AdaptedLayer(nn.Conv2d(2, 4, 3, bias=False, **options))
    x = torch.randn(6, 2, 9, 9)
    covariance = input_covariances(nn.Sequential(layer), x)["0"]
    assert covariance.shape == (18, 18)
    w = layer.base.get_parameter("weight").detach().flatten(1).double()
    energies = layer(x).detach().double().square().sum(dim=(0, 2, 3))
    torch.testing.assert_close((w @ covariance @ w.T).diagonal(), energies, rtol=1e-5, atol=1e-5)


def test_threshold_by_hand() -> None:
    # 0.9 + 0.1 t / 5 for t = 0, 2, 4.
    assert [threshold(0.9, t, 5) for t in (0, 2, 4)] == pytest.approx([0.9, 0.94, 0.98])


def test_remembering_by_hand() -> None:
    # Energies 64, 25, 10, 1 of 100 along the axes of R^4, then one in an old and one in a new one.
    covariance = torch.diag(torch.tensor([25.0, 64.0, 1.0, 10.0])).double()
    assert remember(covariance, None, 0.64).dimension == 1
    assert remember(covariance, None, 0.65).dimension == 2
    assert remember(covariance, None, 0.9).dimension == 3
    assert remember(covariance, None, 1.0).dimension == 4
    space = remember(covariance, None, 0.8)
    assert not space.free
    torch.testing.assert_close(projector(space), torch.diag(torch.tensor([1.0, 1, 0, 0])).double())
    # 90 of 100 lie in the space already: it holds 0.9, and needs one more for 0.95.
    later = torch.diag(torch.tensor([90.0, 0.0, 2.0, 8.0])).double()
    assert remember(later, space, 0.9).dimension == 2
    more = remember(later, space, 0.95)
    assert (more.free, tuple(more.basis.shape)) == (True, (4, 1))
    torch.testing.assert_close(projector(more), torch.diag(torch.tensor([1.0, 1, 0, 1])).double())


def test_two_energies_by_hand() -> None:
    # Three inputs along axes, of length 3, 2 and 1: H H^T = diag(9, 4, 1), shares 9/14 and 13/14 of
    # 14; squared diag(81, 16, 1), shares 81/98 and 97/98 of 98.
    layer = AdaptedLayer(nn.Linear(3, 1))
    x = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    backbone = nn.Sequential(layer)
    paper, code = (input_energies(backbone, x, energy)["0"] for energy in ("paper", "code"))
    assert torch.equal(paper, torch.diag(torch.tensor([9.0, 4.0, 1.0])).double())
    assert torch.equal(code, torch.diag(torch.tensor([81.0, 16.0, 1.0])).double())
    for share, dimensions in ((0.82, (2, 1)), (0.95, (3, 2)), (0.995, (3, 3))):
        assert tuple(remember(G, None, share).dimension for G in (paper, code)) == dimensions


@pytest.mark.parametrize("energy", ["code", "paper"])
def test_both_forms_of_the_memory_against_the_reference(energy: str) -> None:
    generator = np.random.default_rng(0)
    space, basis, forms = None, np.zeros((12, 0)), []
    for task, rank in enumerate((2, 3, 4, 3)):
        H = generator.normal(size=(12, rank)) @ generator.normal(size=(rank, 40))
        H = H @ H.T if energy == "code" else H
        share = threshold(0.97 if energy == "paper" else 0.999, task, 4)
        basis = reference.gpm(basis, H, share)
        space = remember(torch.tensor(H @ H.T), space, share)
        expected = torch.tensor(basis @ basis.T)
        torch.testing.assert_close(projector(space), expected, rtol=1e-5, atol=1e-5)
        assert space.basis.shape[1] <= 6
        forms.append(space.free)
    assert forms[0] is False
    assert forms[-1] is True


@pytest.mark.parametrize("energy", ["code", "paper"])
@pytest.mark.parametrize("free", [False, True])
def test_branch_rows_are_the_main_directions_outside_the_space(free: bool, energy: str) -> None:
    generator = np.random.default_rng(1)
    basis = np.linalg.qr(generator.normal(size=(10, 10)))[0]
    remembered, rest = basis[:, :4], basis[:, 4:]
    space = InputSpace(torch.tensor(rest if free else remembered).float(), free)
    H = generator.normal(size=(10, 30))
    H = H @ H.T if energy == "code" else H
    A = branch_rows(torch.tensor(H @ H.T), space, 3).double()
    outside = H - remembered @ (remembered.T @ H)
    expected = torch.tensor(np.linalg.svd(outside)[0][:, :3])
    torch.testing.assert_close(A @ A.T, torch.eye(3).double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(A.T @ A, expected @ expected.T, rtol=1e-4, atol=1e-5)
    assert (A @ torch.tensor(remembered)).abs().max() < 1e-6


def test_rows_without_a_direction_left_are_zero() -> None:
    H = torch.eye(6, 3).double()
    A = branch_rows(H @ H.T, None, 4)
    assert A.any(dim=1).tolist() == [True, True, True, False]
    everything = remember(torch.eye(6).double(), None, 1.0)
    assert everything.basis.shape == (6, 0)
    assert not branch_rows(H @ H.T, everything, 4).any()
    assert remember(H @ H.T, everything, 1.0).dimension == 6


# No interference


def low_rank_task(method: Method, task_id: int, rank: int = 3) -> tuple[Task, Tensor]:
    """The task with inputs that span exactly ``rank`` directions of their own."""
    generator = torch.Generator().manual_seed(task_id)
    directions = torch.randn(rank, 32, generator=generator)
    x = torch.randn(48, rank, generator=generator) @ directions
    y = (x[:, 0] > 0).long()
    task = method.benchmark.task(task_id)
    return dataclasses.replace(task, train=lambda: Samples(x, y)), x


def interference(method: Method) -> tuple[float, float]:
    """How much learning task 1 changes the features of task 0's inputs, and of its own."""
    (first, x), (second, own) = low_rank_task(method, 0), low_rank_task(method, 1)
    learn(method, [first], steps=30)
    with torch.no_grad():
        before, own_before = method.network.backbone(x), method.network.backbone(own)
        with torch.enable_grad():
            learn(method, [second], steps=30)
        after, own_after = method.network.backbone(x), method.network.backbone(own)
    return float((after - before).abs().max()), float((own_after - own_before).abs().max())


def test_learning_a_task_changes_no_feature_of_an_earlier_one() -> None:
    earlier, own = interference(method_on(f"inflora: {EVERYTHING}", model=WIDE))
    assert earlier < 1e-5
    assert own > 1e-2
    earlier, own = interference(method_on("o_lora: {rank: 4}", model=WIDE))
    assert earlier > 1e-3
    assert own > 1e-2


def test_orthogonal_to_earlier_inputs_in_every_layer() -> None:
    method = inflora(f"inflora: {EVERYTHING}", model=WIDE)
    (first, x), (second, _) = low_rank_task(method, 0), low_rank_task(method, 1)
    learn(method, [first, second], steps=30)
    inputs = {"linear1": x, "linear2": functional.relu(method.network.backbone[1](x)).detach()}
    # Task 1 has three directions of inputs, so the fourth row of its first layer stays zero.
    rows = {layer: int(b.lora_A.weight.any(dim=1).sum()) for layer, b in method.current().items()}
    assert rows == {"linear1": 3, "linear2": 4}
    for layer, branch in method.current().items():
        A = branch.lora_A.weight
        assert (inputs[layer] @ A.T).abs().max() < 1e-5
        assert branch.lora_B.weight.abs().max() > 1e-3


# The method


def test_only_b_and_the_head_train() -> None:
    method = inflora(INFLORA)
    task = method.benchmark.task(0)
    method.begin(task)
    rows: dict[str, Tensor] = {}

    def fit(tasks: Any, *, start: float = 0.0, end: float = 1.0) -> None:
        names = [n for n, p in method.network.named_parameters() if p.requires_grad]
        assert sum(name.endswith("current.lora_B.weight") for name in names) == 2
        assert sum(name.startswith("heads.task-000.") for name in names) == 2
        assert len(names) == 4
        rows.update({k: b.lora_A.weight.detach().clone() for k, b in method.current().items()})

    method.learn(task, fit)
    x = task.train().x
    largest = torch.linalg.svd(x.T.double()).U[:, :2].T
    ours = rows["linear1"].double()
    torch.testing.assert_close(ours.T @ ours, largest.T @ largest, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("option", "scale"), [("", 3**-0.5), ("scale: paper", 1.0), ("scale: 0.25", 0.25)]
)
def test_the_scale_of_a_branch(option: str, scale: float) -> None:
    # The authors' code divides the rows of A by sqrt(3) in the place of a scale.
    method = inflora(f"inflora: {{rank: 2, {option}}}")
    learn(method, [0])
    assert [branch.scale for branch in method.current().values()] == [scale] * 2
    x = torch.randn(6, 32)
    adapted = method.network.backbone.get_submodule("linear1")
    A, B = factors(method.current()["linear1"])
    torch.testing.assert_close(A @ A.T, torch.eye(2), rtol=1e-5, atol=1e-5)
    expected = adapted.base(x) + (x @ (A * scale).T) @ B.T
    torch.testing.assert_close(adapted(x), expected, rtol=1e-5, atol=1e-5)


def digits_experiment(method: str) -> Experiment:
    """A short run on five tasks of two real digits each."""
    text = f"""
name: digits
benchmark: {{name: split, dataset: digits, tasks: 5}}
model: {{name: mlp, hidden: [100, 100]}}
train: {{iterations: 30, batch_size: 32, lr: 0.001}}
methods: {{{method}}}
"""
    return lora_cl.parse_config(text, "test")


def test_at_its_defaults_it_remembers_little_and_learns(tmp_path: Path) -> None:
    frozen, ours = (
        run_one(digits_experiment(method), tmp_path).result
        for method in ("frozen: {}", "inflora: {}")
    )
    learned = [
        sum(result["accuracy_matrix"][k][k] for k in range(5)) / 5 for result in (frozen, ours)
    ]
    assert learned[0] < 0.85
    assert learned[1] > learned[0] + 0.1
    assert ours["details"]["remembered"]["linear1"] == [6, 64]


@pytest.mark.parametrize(("energy", "dimensions"), [("code", 6), ("paper", 35)])
def test_what_is_remembered_of_real_digits(energy: str, dimensions: int) -> None:
    config = digits_experiment("frozen: {}").config
    benchmark = make_benchmark(config, 0, torch.device("cpu"), None)
    space, basis = None, np.zeros((64, 0))
    for task in range(5):
        H = benchmark.task(task).train().x.reshape(-1, 64).T.double()
        H = H @ H.T if energy == "code" else H
        share = threshold(0.95, task, 5)
        space = remember(H @ H.T, space, share)
        basis = reference.gpm(basis, H.numpy(), share)
    assert space is not None
    assert space.dimension == basis.shape[1] == dimensions
    torch.testing.assert_close(projector(space), torch.tensor(basis @ basis.T), rtol=0, atol=1e-5)


def test_a_class_incremental_run_has_one_classifier_like_others() -> None:
    method = inflora(INFLORA, "class")
    learn(method, [0, 1])
    assert list(method.network.heads) == ["shared"]
    assert method.classifier == "joint"
    with method.view(0) as network:
        logits = network(torch.randn(2, 32))
        assert logits.shape == (2, 4)
        y = torch.tensor([0, 3])
        among_all = functional.cross_entropy(logits, y)
        torch.testing.assert_close(task_cross_entropy(network, logits, y), among_all)


def test_a_classifier_per_task_where_asked_for() -> None:
    method = inflora("inflora: {rank: 2, classifier: local}", "class")
    learn(method, [0, 1])
    first = [p.detach().clone() for p in method.head(0).parameters()]
    learn(method, [2])
    assert all(torch.equal(a, b) for a, b in zip(first, method.head(0).parameters(), strict=True))
    x = torch.randn(5, 32)
    with method.view(1) as network:
        features = method.network.backbone(x)
        logits = network(x)
        expected = torch.cat([method.head(k)(features) for k in range(3)], dim=1)
        torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-6)
        assert network.offsets == {0: 0, 1: 2, 2: 4}
        y = torch.tensor([2, 3, 3, 2, 2])
        among_its_own = functional.cross_entropy(logits[:, 2:4], y - 2)
        torch.testing.assert_close(method.loss(network, x, y), among_its_own)


def test_a_grouped_convolution_is_refused() -> None:
    method = inflora(INFLORA)
    method.network.backbone = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2))
    with pytest.raises(MethodError, match="layer 0 is a convolution with groups"):
        method.prepare()


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_runs_in_every_scenario(tmp_path: Path, scenario: str, optimizer: str) -> None:
    record = run_one(experiment(INFLORA, scenario, optimizer, duration="epochs: 12"), tmp_path)
    assert not record.result["isolated"]
    assert not record.result["needs_task_id"]
    matrix = record.result["accuracy_matrix"]
    assert matrix[0][0] > 0.9
    # Noise fills the inputs' space with the first task, so that the last one learns little.
    assert matrix[2][2] > 0.7 if scenario == "class" else sum(matrix[2]) / 3 > 0.65
    details = record.result["details"]
    assert details["directions"] == {"linear1": [2, 2, 2], "linear2": [2, 2, 2]}
    sizes = details["remembered"]
    assert [size[1] for size in sizes.values()] == [32, 16]
    assert all(2 < remembered <= d for remembered, d in sizes.values())


def test_costs_by_hand(tmp_path: Path) -> None:
    # Trained: B 2 * 16 + 2 * 16 = 64 and the head 34. Stored: A, too: 2 * 32 + 2 * 16 = 96. All
    # branches act for every task, so that they can be merged into the base of 800.
    record = run_one(experiment(INFLORA), tmp_path)
    cost = record.result["cost"]
    assert cost["trained_params_per_task"] == 64 + 34
    assert cost["added_params_per_task"] == 34
    assert cost["total_params"] == 800 + 3 * 34
    # The memory: the smaller of the bases of what is remembered and of what is free.
    sizes = record.result["details"]["remembered"].values()
    memory = sum(d * min(k, d - k) for k, d in sizes)
    assert cost["stored_bytes"] == 4 * (800 + 3 * 194 + memory)
