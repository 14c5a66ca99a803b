from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import pytest
import torch
from private_head_cases import learn, method_on

import lora_cl
from lora_cl.errors import ConfigError
from lora_cl.methods.means import class_scatter, covariance_factor, shrinkage
from lora_cl.methods.routing import (
    BY_ADAPTED,
    ROUTERS,
    RouterOptions,
    doubt,
    energy,
    mean_spread,
    nearest,
    remember,
    scaled,
)

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


def nearest_task(features: torch.Tensor, means: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack([nearest(features, rows) for rows in means]).argmin(0)


def logits(*p: float) -> torch.Tensor:
    return torch.tensor([p]).log()


def test_every_router_is_a_choice() -> None:
    choices = get_args(RouterOptions.model_fields["router"].annotation)
    assert set(choices) == {"oracle", *ROUTERS}
    assert len(ROUTERS) == 6


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


# Energy


def test_energy_by_hand() -> None:
    """-ln(1 + 2 + 5) = -ln 8; logits of the same softmax, and 3 larger, are 3 lower."""
    f = torch.tensor([[1.0, 2.0, 5.0]]).log()
    torch.testing.assert_close(
        energy(torch.cat([f, f + 3])),
        torch.tensor([1.0, 1.0]) * -math.log(8) - torch.tensor([0.0, 3.0]),
    )
    assert energy(torch.tensor([[4.0], [-2.0]])).tolist() == [-4.0, 2.0]


def test_energy_and_entropy_choose_otherwise() -> None:
    """(6, 5) is large and in doubt, (2, -2) small and sure."""
    large, small = torch.tensor([[6.0, 5.0]]), torch.tensor([[2.0, -2.0]])
    assert energy(large) < energy(small)
    assert doubt(small) < doubt(large)


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
    remember(method, task)
    samples = task.train()
    with torch.no_grad():
        features = method.network.backbone.eval()(samples.x)
    right = torch.stack([features[samples.y == label].mean(0) for label in (0, 1)])
    torch.testing.assert_close(method.kept["prototypes.0"], right)


# Mahalanobis


def test_shrinkage_by_hand() -> None:
    """S = diag(3, 1): d = 2, tr S^2 = 10, tr(S)^2 = 16. rho = (0 + 16) / (n (10 - 8)) = 8 / n."""
    S = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64))
    assert shrinkage(S, 16) == pytest.approx(0.5)
    assert shrinkage(S, 80) == pytest.approx(0.1)
    assert shrinkage(S, 5) == 1.0
    assert shrinkage(torch.eye(3, dtype=torch.float64), 1000) == 1.0
    assert shrinkage(torch.eye(1, dtype=torch.float64), 1000) == 1.0


def test_shrinkage_is_as_scikit_learn_has_it_in_many_dimensions() -> None:
    """It leaves out 2 / d, which is then nothing."""
    oas = pytest.importorskip("sklearn.covariance").oas
    x = torch.randn(60, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x *= torch.linspace(0.2, 3, 400, dtype=torch.float64)
    x -= x.mean(0)
    _, theirs = oas(x.numpy(), assume_centered=True)
    ours = shrinkage(x.T @ x / len(x), len(x))
    assert 0.1 < ours < 0.9
    assert ours == pytest.approx(theirs, rel=0.02)


def test_distances_along_a_wide_direction_count_less_by_hand() -> None:
    """S = diag(3, 1) of 16 samples is shrunk by half to diag(2.5, 1.5): of (5, 0) and (0, 4) the
    squared distances from 0 are 25 / 2.5 = 10 and 16 / 1.5."""
    factor = covariance_factor(torch.diag(torch.tensor([48.0, 16.0], dtype=torch.float64)), 16)
    rows = scaled(torch.tensor([[5.0, 0.0], [0.0, 4.0]]), factor)
    assert rows.square().sum(1).tolist() == pytest.approx([10.0, 16 / 1.5])
    # So that (0, 0) belongs to the mean that is farther away by the plain distance.
    means = [torch.tensor([[0.0, 4.0]]), torch.tensor([[5.0, 0.0]])]
    origin = torch.zeros(1, 2)
    assert nearest_task(origin, means).tolist() == [0]
    assert nearest_task(scaled(origin, factor), [scaled(m, factor) for m in means]).item() == 1


def test_correlated_features_by_hand() -> None:
    """|L^-1 h|^2 = h^T S^-1 h: S = ((2, 1), (1, 2)) / 3 has S^-1 = ((2, -1), (-1, 2)), and tr S^2 =
    10 / 9, tr(S)^2 = 16 / 9, so that of 8e6 samples rho = 1e-6."""
    n = 8_000_000
    S = torch.tensor([[2.0, 1.0], [1.0, 2.0]], dtype=torch.float64) / 3
    assert shrinkage(S, n) == pytest.approx(1e-6)
    rows = scaled(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), covariance_factor(S * n, n))
    assert rows.square().sum(1).tolist() == pytest.approx([2.0, 6.0], rel=1e-5)


def test_without_scatter_the_distance_is_the_plain_one() -> None:
    """As of one sample a class."""
    factor = covariance_factor(torch.zeros(3, 3, dtype=torch.float64), 2)
    assert torch.equal(factor, torch.eye(3, dtype=torch.float64))


def test_a_feature_that_never_moves_has_an_inverse() -> None:
    scatter = torch.zeros(4, 4, dtype=torch.float64)
    scatter[:3, :3] = torch.ones(3, 3)
    factor = covariance_factor(scatter, 10)
    assert bool(torch.isfinite(scaled(torch.ones(2, 4), factor)).all())


def test_the_covariance_is_shared_by_all_tasks_and_what_is_kept_by_hand() -> None:
    method = method_on("{lora: {router: mahalanobis}}", "class")
    learn(method, [0, 1])
    with torch.no_grad():
        found = [
            (method.base_features(s.x).double(), s.y)
            for s in (method.benchmark.task(k).train() for k in (0, 1))
        ]
    apart = torch.cat([h[y == c] - h[y == c].mean(0) for h, y in found for c in (0, 1)])
    torch.testing.assert_close(method.kept["scatter"], apart.T @ apart, rtol=1e-5, atol=1e-6)
    assert method.kept["scatter.samples"].item() == len(apart)
    assert set(method.kept) == {"prototypes.0", "prototypes.1", "scatter", "scatter.samples"}
    plain = method_on("{lora: {}}", "class")
    learn(plain, [0, 1])
    # Four means of 16 features, a matrix of 16 x 16 in double precision, and a count.
    kept = 4 * 16 * 4 + 16 * 16 * 8 + 8
    assert method.stored_bytes() - plain.stored_bytes() == kept


def test_it_finds_tasks_that_lie_behind_noise() -> None:
    """The tasks are 1 apart in a feature of deviation 0.2; classes in one of deviation 6."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 200, 2, generator=generator) * torch.tensor([0.2, 6.0])
    at = torch.tensor([[0.0, 3.0], [0.0, -3.0], [1.0, 1.0], [1.0, -1.0]])
    means = [at[:2], at[2:]]
    x = (noise + at[:, None]).flatten(0, 1)
    y = torch.arange(4).repeat_interleave(200)
    factor = covariance_factor(class_scatter(lambda part: part, x, y, at), len(x))
    plain = nearest_task(x, means) == y // 2
    better = nearest_task(scaled(x, factor), [scaled(m, factor) for m in means]) == y // 2
    assert 0.4 < float(plain.float().mean()) < 0.7
    assert 0.97 < float(better.float().mean()) <= 1.0


# In each task's own features


def test_each_space_is_measured_by_its_own_samples_by_hand() -> None:
    """Scatter diag(12, 4) of 4 samples: their mean squared distance from the means is 4. (0, 3) is
    3 from 0 there; in a space of spread 1 as far is further than 2 of 1."""
    wide = mean_spread(torch.diag(torch.tensor([12.0, 4.0])), 4)
    assert float(wide) == 2.0
    h, means = torch.tensor([[0.0, 3.0]]), torch.zeros(1, 2)
    narrow = mean_spread(torch.diag(torch.tensor([1.0, 3.0])), 4)
    distances = [nearest(scaled(h, s), scaled(means, s)).item() for s in (wide, narrow)]
    assert distances == [1.5, 3.0]
    assert float(mean_spread(torch.zeros(2, 2), 3)) == 1.0


@pytest.mark.parametrize("router", BY_ADAPTED)
def test_what_is_kept_of_adapted_features_by_hand(router: str) -> None:
    """Of the task that each adapter was made for, and of no other."""
    method = method_on(f"{{lora: {{router: {router}}}}}", "class")
    learn(method, [0, 1])
    assert set(method.kept) == {f"{n}.{k}" for n in ("adapted.means", router) for k in (0, 1)}
    for k in (0, 1):
        samples = method.benchmark.task(k).train()
        with method.view(k) as network, torch.no_grad():
            h = network.eval().backbone(samples.x)
        with torch.no_grad():
            assert not torch.equal(h, method.base_features(samples.x))
        means = torch.stack([h[samples.y == label].mean(0) for label in (0, 1)])
        torch.testing.assert_close(method.kept[f"adapted.means.{k}"], means)
        apart = (h - means[samples.y]).double()
        right = (
            apart.square().sum(1).mean().sqrt()
            if router == "adapted-prototype"
            else covariance_factor(apart.T @ apart, len(h))
        )
        torch.testing.assert_close(method.kept[f"{router}.{k}"], right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("router", BY_ADAPTED)
def test_the_task_is_that_of_the_least_distance_in_its_own_features(router: str) -> None:
    method = method_on(f"{{lora: {{router: {router}}}}}", "class")
    learn(method, [0, 1])
    x = torch.cat([method.benchmark.task(k).test().x for k in (0, 1)])
    distances = []
    with torch.no_grad():
        for k in (0, 1):
            with method.view(k) as network:
                h = network.eval().backbone(x).double()
            means, scale = method.kept[f"adapted.means.{k}"], method.kept[f"{router}.{k}"].double()
            inverse = torch.linalg.inv(
                scale if scale.dim() else scale * torch.eye(h.shape[1]).double()
            )
            apart = (h[:, None] - means) @ inverse.T
            distances.append(apart.square().sum(2).amin(1))
    tasks, labels = method.route(x)
    assert tasks.tolist() == torch.stack(distances).argmin(0).tolist()
    assert len(set(tasks.tolist())) == 2
    assert [label // 2 for label in labels.tolist()] == tasks.tolist()


def test_a_router_with_nothing_to_find_is_refused() -> None:
    with pytest.raises(ConfigError, match="router entropy has nothing to find"):
        lora_cl.run(
            lora_cl.parse_config(SIZES.format(epochs=1), "t", ["scenario=task"]), progress=False
        )
