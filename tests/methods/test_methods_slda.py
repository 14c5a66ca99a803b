from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lora_cl.methods.means import class_scatter, class_sums, shrinkage
from lora_cl.methods.slda import SharedCovariance, between


def same(x: Tensor) -> Tensor:
    return x


def taken(x: Tensor, y: Tensor, classes: int, *parts: slice, again: bool = True) -> Tensor:
    """What a classifier that saw ``parts`` one after another says of all of x."""
    answer = SharedCovariance(classes, x.shape[1], x.device, again=again)
    for part in parts:
        answer.take(same, x[part], y[part], 0, 0)
    logits: Tensor = answer(x)
    return logits


def clouds(n: int, classes: int, d: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % classes
    spread = torch.linspace(0.3, 3, d)
    at = torch.randn(classes, d, generator=generator)
    return at[y] + spread * torch.randn(n, d, generator=generator), y


def test_the_nearest_by_the_shared_covariance_by_hand() -> None:
    """Samples (+-4, +-1) about 0 and about (2, 3): S = diag(16, 1), d = 2, n = 8.

    tr S^2 = 257, tr(S)^2 = 289: rho = (0 + 289) / (8 (257 - 289 / 2)) = 289 / 900, and the shrunk S
    is diag(a, b), a = 611 / 900 * 16 + 289 / 900 * 8.5, b likewise of 1. Of m = (2, 3) the logit at
    h is 2 h_1 / a + 3 h_2 / b - (4 / a + 9 / b) / 2, that of 0 is 0.
    """
    corners = torch.tensor([[4.0, 1.0], [4.0, -1.0], [-4.0, 1.0], [-4.0, -1.0]])
    x = torch.cat([corners, corners + torch.tensor([2.0, 3.0])])
    y = torch.tensor([0] * 4 + [1] * 4)
    rho = 289 / 900
    a, b = (1 - rho) * 16 + rho * 8.5, (1 - rho) + rho * 8.5
    found = taken(x, y, 3, slice(None))
    assert found[:, 0].tolist() == [0.0] * 8
    right = 2 * x[:, 0] / a + 3 * x[:, 1] / b - (4 / a + 9 / b) / 2
    torch.testing.assert_close(found[:, 1], right)
    assert torch.isneginf(found[:, 2]).all()  # No sample of it was seen.


def test_it_is_as_scikit_learn_has_it() -> None:
    discriminant = pytest.importorskip("sklearn.discriminant_analysis")
    x, y = clouds(600, 4, 12)
    sums, counts = class_sums(same, x, y, 4)
    scatter = class_scatter(same, x, y, sums / counts[:, None])
    rho = shrinkage(scatter / len(x), len(x))
    assert 0.005 < rho < 0.5
    # scikit-learn shrinks what it has standardised, unless every feature varies as much.
    factor = torch.linalg.cholesky(scatter / len(x)).float()
    white = torch.linalg.solve_triangular(factor, x.T, upper=False).T
    theirs = discriminant.LinearDiscriminantAnalysis(solver="lsqr", priors=[0.25] * 4)
    theirs.fit(white.numpy(), y.numpy())
    right = torch.tensor(theirs.decision_function(white.numpy())).float()
    found = taken(white, y, 4, slice(None))
    # The covariance of white features is the identity, which shrinking leaves as it is.
    torch.testing.assert_close(found - found[:, :1], right - right[:, :1], rtol=1e-3, atol=1e-3)


def test_in_parts_it_is_as_at_once() -> None:
    """Also where a part has other shares of the classes, and so other means."""
    x, y = clouds(300, 3, 5)
    x[100:] += 2 * y[100:, None]
    whole = taken(x, y, 3, slice(None))
    parts = taken(x, y, 3, slice(0, 40), slice(40, 160), slice(160, 300))
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)


def test_two_parts_about_their_common_mean_by_hand() -> None:
    """0 and 0 about 0, and 3 about 3: about the mean 1 it is 1 + 1 + 4 = 6 = 2 * 1 / 3 * 9."""
    found = between(
        torch.zeros(1, 1), torch.tensor([2]), torch.full((1, 1), 3.0), torch.tensor([1])
    )
    assert found.tolist() == [[6.0]]
    nothing = between(torch.zeros(1, 1), torch.tensor([0]), torch.ones(1, 1), torch.tensor([5]))
    assert nothing.tolist() == [[0.0]]


def test_what_no_more_samples_come_to_keeps_no_scatter() -> None:
    x, y = clouds(60, 2, 4)
    kept = SharedCovariance(2, 4, x.device, again=False)
    kept.take(same, x, y, 0, 0)
    assert "scatter" not in kept.state_dict()
    assert torch.equal(kept(x), taken(x, y, 2, slice(None)))


def test_samples_that_are_all_alike_are_told_by_their_means() -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = taken(x, torch.tensor([0, 0, 1]), 2, slice(None))
    assert found.argmax(1).tolist() == [0, 0, 1]
