"""The Fisher diagonal against closed forms and a loop that takes one sample at a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from lora_cl.adapters import activate, add_adapter, make_dora, make_lora, match_targets, wrap
from lora_cl.methods import fisher
from lora_cl.methods.fisher import fisher_diagonal, label_draws
from lora_cl.models.cnn import Cnn, CnnOptions
from lora_cl.models.mlp import Mlp, MlpOptions
from lora_cl.models.rows import part_of_batch


def loop_fisher(
    network: nn.Module, parameters: dict[str, nn.Parameter], x: Tensor, labels: Tensor | None
) -> dict[str, Tensor]:
    """One sample and one label at a time; ``labels`` None means in expectation over the model's."""
    network.eval()
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for number in range(len(x)):
        log_p = functional.log_softmax(network(x[number : number + 1]), dim=1)[0]
        chosen = range(len(log_p)) if labels is None else [int(labels[number])]
        for label in chosen:
            weight = float(log_p[label].detach().exp()) if labels is None else 1.0
            grads = torch.autograd.grad(
                log_p[label], list(parameters.values()), retain_graph=True, allow_unused=True
            )
            for name, gradient in zip(parameters, grads, strict=True):
                if gradient is not None:
                    total[name] += weight * gradient.square()
    return {name: square / len(x) for name, square in total.items()}


def assert_close(found: dict[str, Tensor], right: dict[str, Tensor], count: int) -> None:
    """To 1e-5 of the largest entry of each tensor, entry by entry to 1e-4."""
    assert found.keys() == right.keys()
    assert len(right) == count
    for name in right:
        scale = float(right[name].max())
        assert scale > 0, name
        torch.testing.assert_close(found[name], right[name], rtol=1e-4, atol=1e-5 * scale)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def trainable(network: nn.Module) -> dict[str, nn.Parameter]:
    return {n: p for n, p in network.named_parameters() if p.requires_grad}


def test_softmax_regression_has_a_closed_form() -> None:
    # d log p_k / d W_cj = (1[c = k] - p_c) x_j. Squared, in expectation over k ~ p:
    # p_c (1 - p_c)^2 x_j^2 + (1 - p_c) p_c^2 x_j^2 = p_c (1 - p_c) x_j^2; with x_j = 1 the bias.
    torch.manual_seed(0)
    network = nn.Linear(5, 4)
    x = draw(700, 5)
    p = functional.softmax(network(x), dim=1).detach()
    spread = p * (1 - p)
    found = fisher_diagonal(
        network, trainable(network), x, torch.zeros(700, dtype=torch.int64), "exact"
    )
    torch.testing.assert_close(found["weight"], spread.T @ x.square() / 700, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found["bias"], spread.mean(0), rtol=1e-5, atol=1e-7)


def test_one_weight_by_hand() -> None:
    # Logits (w x, 0) with w x = ln 3: p = (3/4, 1/4). d log p_0 / d w = x p_1, d log p_1 / d w =
    # -x p_0. Two samples x = 1 and x = -1 (p = (1/4, 3/4)) both give F = p_0 p_1 x^2 = 3/16.
    # The empirical one with label 0 twice: (1/4)^2 and (3/4)^2, mean (1/16 + 9/16) / 2 = 5/16; the
    # square of the mean gradient (1/4 - 3/4) / 2 would be 1/16.
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Linear(1, 1, bias=False)
            nn.init.constant_(self.line.weight, 1.0986122886681098)

        def forward(self, x: Tensor) -> Tensor:
            return functional.pad(self.line(x), (0, 1))

    network, x = Network(), torch.tensor([[1.0], [-1.0]])
    y = torch.zeros(2, dtype=torch.int64)
    exact = fisher_diagonal(network, trainable(network), x, y, "exact")
    empirical = fisher_diagonal(network, trainable(network), x, y, "empirical")
    assert float(exact["line.weight"]) == pytest.approx(3 / 16, rel=1e-6)
    assert float(empirical["line.weight"]) == pytest.approx(5 / 16, rel=1e-6)


def adapted(backbone: nn.Module, make: Callable[..., nn.Module]) -> nn.Module:
    wrap(backbone, match_targets(backbone, "all-linear"))
    generator = torch.Generator().manual_seed(3)
    add_adapter(backbone, "one", lambda _, base: make(base, rank=2, alpha=4.0, generator=generator))
    activate(backbone, "one")
    for name, parameter in trainable(backbone).items():
        if "lora_B" in name:
            nn.init.normal_(parameter, 0.0, 0.3, generator=generator)
    return backbone


def mlp() -> nn.Module:
    return Mlp(MlpOptions(hidden=[7, 6]), torch.Size([5]))


def cnn() -> nn.Module:
    return Cnn(CnnOptions(channels=[3, 4], hidden=6), torch.Size([2, 4, 4]))


class Sequences(nn.Module):
    """A layer that sees a sequence of two parts of each sample."""

    def __init__(self, order: Literal["batch first", "sequence first", "rows"]) -> None:
        super().__init__()
        self.line, self.order = nn.Linear(3, 3), order

    def forward(self, x: Tensor) -> Tensor:
        parts = x.reshape(-1, 3) if self.order == "rows" else x.reshape(len(x), 2, 3)
        if self.order == "sequence first":
            return torch.tanh(self.line(parts.transpose(0, 1))).transpose(0, 1).reshape(len(x), 6)
        return torch.tanh(self.line(parts)).reshape(len(x), 6)


class InGroups(nn.Module):
    """Takes its batch apart by a property of the samples, as a network for texts does by length."""

    def __init__(self) -> None:
        super().__init__()
        self.within = sequences()
        self.groups = 0

    def forward(self, x: Tensor) -> Tensor:
        groups = [torch.nonzero(x[:, 0] > 0)[:, 0], torch.nonzero(x[:, 0] <= 0)[:, 0]]
        found = []
        for rows in groups:
            with part_of_batch(rows):
                found.append(self.within(x[rows]))
        self.groups += sum(len(rows) > 0 for rows in groups)
        return torch.cat(found)[torch.cat(groups).argsort()]


def sequences() -> nn.Module:
    return Sequences("batch first")


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "mlp": (mlp, (5,), 6),
    "mlp with lora": (lambda: adapted(mlp(), make_lora), (5,), 6),
    "mlp with dora": (lambda: adapted(mlp(), make_dora), (5,), 8),
    "cnn": (cnn, (2, 4, 4), 10),
    "cnn with lora": (lambda: adapted(cnn(), make_lora), (2, 4, 4), 12),
    "sequences": (sequences, (6,), 4),
    "groups": (InGroups, (6,), 4),
    "sequences with lora": (lambda: adapted(sequences(), make_lora), (6,), 4),
}


@pytest.mark.parametrize("kind", ["exact", "sampled", "empirical"])
@pytest.mark.parametrize("which", NETWORKS)
def test_equals_the_loop_over_samples(which: str, kind: Any) -> None:
    torch.manual_seed(1)
    make, shape, count = NETWORKS[which]
    network = nn.Sequential(make(), nn.Linear(6, 3)).eval()
    x, y = draw(11, *shape), torch.arange(11) % 3
    with torch.no_grad():
        log_p = functional.log_softmax(network(x), dim=1)
    parameters = trainable(network)
    labels = {
        "exact": None,
        "empirical": y,
        "sampled": label_draws("sampled", log_p, y, torch.Generator().manual_seed(5))[0][0],
    }[kind]
    generator = torch.Generator().manual_seed(5)
    found = fisher_diagonal(network, parameters, x, y, kind, generator)
    assert_close(found, loop_fisher(network, parameters, x, labels), count)
    assert not any(square.requires_grad for square in found.values())


def test_batches_make_no_difference() -> None:
    torch.manual_seed(1)
    network = nn.Sequential(mlp(), nn.Linear(6, 3))
    x, y = draw(23, 5), torch.arange(23) % 3
    parts = [
        fisher_diagonal(network, trainable(network), x, y, "exact", batch_size=size)
        for size in (4, 64)
    ]
    assert_close(*parts, count=6)


def test_no_group_of_a_batch_is_taken_sample_by_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    grouped = InGroups()
    network = nn.Sequential(grouped, nn.Linear(6, 3))
    monkeypatch.setattr(fisher, "grad", lambda _: pytest.fail("a sample at a time"))
    fisher_diagonal(network, trainable(network), draw(11, 6), torch.arange(11) % 3, "exact")
    assert 4 <= grouped.groups <= 5  # Of one sample, of the first two, which may be alike, of all.


def test_sequences_in_parts_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    network = nn.Sequential(sequences(), nn.Linear(6, 3))
    x, y = draw(23, 6), torch.arange(23) % 3
    whole = fisher_diagonal(network, trainable(network), x, y, "exact")
    monkeypatch.setattr(fisher, "SAMPLE_GRADIENTS", 50)  # Of 9 numbers a sample: five at once.
    assert_close(fisher_diagonal(network, trainable(network), x, y, "exact"), whole, count=4)


@pytest.mark.parametrize(
    ("x", "rows"),
    [
        (torch.zeros(2, 784), 512),
        (torch.zeros(2, 3, 224, 224), 13),
        (torch.zeros(2, 3, 4000, 4000), 1),
        (torch.zeros(2, 64, dtype=torch.int32), 32),
    ],
)
def test_fewer_large_samples_go_through_the_network_at_once(x: Tensor, rows: int) -> None:
    assert fisher._batch_size(x) == rows


class Twice(nn.Module):
    """One layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.line(torch.tanh(self.line(x)))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.tanh(self.one(x)))


class Bare(nn.Module):
    """A layer whose weight is used, not its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.line.weight, self.line.bias)


class InPlace(nn.Sequential):
    """An activation that overwrites the layer's output."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 6), nn.ReLU(inplace=True))


AWKWARD: list[tuple[Callable[[], nn.Module], int]] = [
    (Twice, 4),
    (Tied, 5),
    (Bare, 4),
    (lambda: Sequences("sequence first"), 4),
    (lambda: Sequences("rows"), 4),
    (InPlace, 4),
]


@pytest.mark.parametrize(("make", "count"), AWKWARD)
def test_layers_that_are_used_otherwise(make: Callable[[], nn.Module], count: int) -> None:
    torch.manual_seed(2)
    network = nn.Sequential(make(), nn.Linear(6, 3))
    x, y = draw(9, 6), torch.arange(9) % 3
    found = fisher_diagonal(network, trainable(network), x, y, "exact")
    assert_close(found, loop_fisher(network, trainable(network), x, None), count)


def test_what_the_outputs_do_not_depend_on_has_no_information() -> None:
    network, apart = nn.Linear(3, 2), nn.Linear(2, 2)
    parameters = {"in": network.weight, "out": apart.weight}
    y = torch.zeros(4, dtype=torch.int64)
    found = fisher_diagonal(network, parameters, draw(4, 3), y, "exact")
    assert float(found["in"].min()) > 0
    assert torch.equal(found["out"], torch.zeros(2, 2))


def test_dropout_is_off_and_no_gradient_is_left_behind() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 50), nn.Dropout(0.5), nn.Linear(50, 2)).train()
    x, y = draw(6, 3), torch.zeros(6, dtype=torch.int64)
    one, two = (fisher_diagonal(network, trainable(network), x, y, "exact") for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert [p.grad for p in network.parameters()] == [None] * 4
    assert not any(module._forward_hooks for module in network.modules())


def test_labels_are_drawn_as_the_model_says() -> None:
    p = torch.tensor([0.1, 0.6, 0.3])
    log_p = p.log().expand(20_000, 3)
    y = torch.zeros(20_000, dtype=torch.int64)
    ((labels, roots),) = label_draws("sampled", log_p, y, torch.Generator().manual_seed(0))
    share = torch.bincount(labels, minlength=3) / 20_000
    # The standard deviation of a share is at most sqrt(0.24 / 20000) = 0.0035.
    torch.testing.assert_close(share, p, rtol=0, atol=0.014)
    assert torch.equal(roots, torch.ones(20_000))


def test_the_weights_of_the_labels_add_to_one() -> None:
    log_p = functional.log_softmax(draw(5, 4), dim=1)
    draws = label_draws("exact", log_p, torch.zeros(5, dtype=torch.int64), None)
    assert [int(labels[0]) for labels, _ in draws] == [0, 1, 2, 3]
    total = torch.stack([roots.square() for _, roots in draws]).sum(0)
    torch.testing.assert_close(total, torch.ones(5))


@pytest.mark.bench
@pytest.mark.parametrize(("outputs", "least"), [(2, 20), (10, 50)])
def test_much_faster_than_the_loop(outputs: int, least: float) -> None:
    """The 784-400-400 perceptron on 12 000 inputs of MNIST's shape, a fifth of it.

    The loop is timed on 60 samples, its time extrapolated in proportion. It costs a backward pass
    an output, so that what is gained is more where there are more outputs.
    """
    torch.manual_seed(0)
    network = nn.Sequential(Mlp(MlpOptions(), torch.Size([784])), nn.Linear(400, outputs))
    x, y = torch.rand(12_000, 784), torch.zeros(12_000, dtype=torch.int64)
    parameters = trainable(network)
    batched = shortest(lambda: fisher_diagonal(network, parameters, x, y, "exact"))
    loop = shortest(lambda: loop_fisher(network, parameters, x[:60], None)) * 12_000 / 60
    print(f"{outputs} outputs: {batched:.2f} s, the loop {loop:.0f} s, {loop / batched:.0f} x")
    assert loop / batched >= least


def shortest(work: Callable[[], object]) -> float:
    """The shortest of four times, in seconds."""
    times = []
    for _ in range(4):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
