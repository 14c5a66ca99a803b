from __future__ import annotations

from pathlib import Path

import pytest
import torch
from method_cases import CNN, OPTIMIZERS, run_one
from private_head_cases import experiment, learn, method_on
from torch import Tensor, nn

import lora_cl
from lora_cl.errors import ConfigError
from lora_cl.methods.pnn import PNN
from lora_cl.models import training_mode
from lora_cl.models.columns import Column, Columns, LateralAdapter, hidden_layers, later_column

HALF = "{pnn: {column_width: 0.5}}"


# The formula


def test_an_adapter_by_hand() -> None:
    adapter = LateralAdapter(2, 2)
    adapter.alpha.data = torch.tensor([0.5])
    adapter.V.weight.data = torch.tensor([[1.0, 2.0], [1.0, -3.0]])
    # 0.5 * (2, 4) = (1, 2); V of it is (5, -5); ReLU leaves (5, 0).
    assert adapter(torch.tensor([[2.0, 4.0]])).tolist() == [[5.0, 0.0]]


def test_columns_by_hand() -> None:
    """One unit a layer, two layers, two columns, ReLU, no biases; all numbers small integers."""

    def layer(*weights: float) -> nn.Sequential:
        linear = nn.Linear(len(weights), 1, bias=False)
        linear.weight.data = torch.tensor([weights])
        return nn.Sequential(linear, nn.ReLU())

    adapters = [LateralAdapter(1, 1), LateralAdapter(1, 1)]
    for adapter, alpha, v in zip(adapters, (0.5, 2.0), (3.0, 1.0), strict=True):
        adapter.alpha.data, adapter.V.weight.data = torch.tensor([alpha]), torch.tensor([[v]])
    first = Column([layer(2.0), layer(5.0)])
    second = Column([layer(1.0), layer(4.0, 10.0)], adapters)
    # x = 1. First column: h_1 = 2, h_2 = 10.
    # Second: h_1 = 1; h_2 = 4 * 1 + 10 * (3 * 0.5 * 2) = 34; for the head 1 * 2 * 10 = 20.
    x = torch.tensor([[1.0]])
    assert Columns([first])(x).tolist() == [[10.0]]
    assert Columns([first, second])(x).tolist() == [[34.0, 20.0]]


def test_three_columns_against_the_equation() -> None:
    method = method_on(HALF)
    learn(method, [0, 1, 2])
    x = method.benchmark.task(2).test().x
    state = method.network.state_dict()

    def weights(k: int, i: int) -> tuple[Tensor, Tensor]:
        """W and b of hidden layer i (from 1) of column k; for k > 0 W holds U on the right."""
        where = f"backbone.linear{i}" if k == 0 else f"columns.{k - 1}.layers.{i - 1}"
        if k > 0:
            where += ".1" if i == 1 else ".0"  # The first layer begins with the flattening.
        return state[f"{where}.weight"], state[f"{where}.bias"]

    def lateral(k: int, i: int, before: list[Tensor]) -> Tensor:
        alpha = state[f"columns.{k - 1}.adapters.{i}.alpha"]
        v = state[f"columns.{k - 1}.adapters.{i}.V.weight"]
        return torch.relu((alpha * torch.cat(before, 1)) @ v.T)

    h: dict[tuple[int, int], Tensor] = {}
    for k in range(3):
        w, b = weights(k, 1)
        h[k, 1] = torch.relu(x @ w.T + b)
        w, b = weights(k, 2)
        n = h[k, 1].shape[1]
        z = h[k, 1] @ w[:, :n].T + b
        if k:
            z = z + lateral(k, 0, [h[j, 1] for j in range(k)]) @ w[:, n:].T
        h[k, 2] = torch.relu(z)
        head, bias = state[f"heads.task-00{k}.weight"], state[f"heads.task-00{k}.bias"]
        n = h[k, 2].shape[1]
        logits = h[k, 2] @ head[:, :n].T + bias
        if k:
            logits = logits + lateral(k, 1, [h[j, 2] for j in range(k)]) @ head[:, n:].T
        with method.view(k) as network:
            torch.testing.assert_close(network(x), logits)
    assert [h[k, 2].shape[1] for k in range(3)] == [16, 8, 8]


# The columns


def test_the_first_column_is_the_base() -> None:
    method = method_on("pnn")
    method.begin(method.benchmark.task(0))
    x = method.benchmark.task(0).test().x
    with method.view(0) as network:
        assert torch.equal(network.backbone(x), method.network.backbone(x))
        pointers = {p.data_ptr() for p in network.backbone.parameters()}
    assert pointers == {p.data_ptr() for p in method.network.backbone.parameters()}


def test_columns_are_not_copied() -> None:
    method = method_on("pnn")
    learn(method, [0, 1, 2])
    tensors: set[int] = set()
    counts = []
    for task_id in range(3):
        with method.view(task_id) as network:
            mine = {p.data_ptr() for p in network.backbone.parameters()}
        assert tensors < mine
        tensors = mine
        counts.append(len(mine))
    # 4 of the first column, then 4 and twice alpha and V.
    assert counts == [4, 12, 20]
    assert sum(1 for _ in method.network.parameters()) == 20 + 6


def test_every_lateral_parameter_gets_a_gradient() -> None:
    method = method_on("pnn")
    learn(method, [0, 1])
    task = method.benchmark.task(2)
    method.begin(task)
    samples = task.train()
    with method.view(2) as network:
        method.loss(network, samples.x, samples.y).backward()
    column = method.network.get_submodule("columns.1")
    alive = 0
    for name, parameter in column.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
        alive += name.startswith("adapters")
    assert alive == 4
    for weight in (
        method.network.get_submodule("columns.1.layers.1.0").weight,
        method.network.heads["task-002"].weight,
    ):
        n = weight.shape[1] // 2
        assert weight.grad[:, :n].abs().sum() > 0
        assert weight.grad[:, n:].abs().sum() > 0
    frozen = [
        *method.network.backbone.parameters(),
        *method.network.get_submodule("columns.0").parameters(),
    ]
    assert len(frozen) == 12
    assert all(parameter.grad is None for parameter in frozen)


def test_later_columns_are_scaled() -> None:
    first = hidden_layers(method_on("pnn").network.backbone)
    column = later_column(first, 0.25, [Column(first)])
    linears = [m for m in column.layers.modules() if isinstance(m, nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [(32, 4), (8, 4)]
    narrow = later_column(first, 0.001, [Column(first)])
    assert [m.out_features for m in narrow.layers.modules() if isinstance(m, nn.Linear)] == [1, 1]


def test_dropout_is_its_own_in_every_column() -> None:
    method = method_on("pnn", model="{name: mlp, hidden: [16, 16], dropout: 0.5}")
    learn(method, [0, 1])
    with method.view(1) as network:
        training_mode(network)
        modes = [
            [m.training for m in column.modules() if isinstance(m, nn.Dropout)]
            for column in network.backbone.columns
        ]
    assert modes == [[False, False], [True, True]]


# Any network with stages


def test_stages_are_joined_as_written_out() -> None:
    method = method_on("{pnn: {start: base}}", model=CNN.replace("[4]", "[4, 6]"))
    learn(method, [0, 1, 2])
    x = method.benchmark.task(2).test().x
    groups = [["conv1", "norm1", "relu1", "pool1"], ["conv2", "norm2", "relu2", "pool2", "flatten"]]
    groups += [["linear", "relu"]]
    state = method.network.state_dict()

    def told(k: int, i: int, earlier: list[Tensor]) -> Tensor:
        where = f"columns.{k - 1}.laterals.{i}"
        h = torch.cat(earlier, dim=1)
        v, u = state[f"{where}.adapter.V.weight"], state[f"{where}.U.weight"]
        if h.dim() == 4:
            v, u = v[:, :, None, None], u[:, :, None, None]
            h = nn.functional.conv2d(state[f"{where}.adapter.alpha"] * h, v)
            return nn.functional.conv2d(torch.relu(h), u)
        return torch.relu(state[f"{where}.adapter.alpha"] * h @ v.T) @ u.T

    names = dict(method.network.backbone.named_children())
    assert [name for group in groups for name in group] == list(names)
    method.network.eval()
    h: dict[tuple[int, int], Tensor] = {}
    for k in range(3):
        into = x
        for i, group in enumerate(groups):
            for place, name in enumerate(group):
                layer = names[name]
                if k:
                    layer = method.network.get_submodule(f"columns.{k - 1}.layers.{i}.{place}")
                into = layer(into)
            h[k, i] = into
            if k:
                into = into + told(k, i, [h[j, i] for j in range(k)])
        head = method.network.heads[f"task-00{k}"]
        with method.view(k) as network:
            torch.testing.assert_close(network.eval()(x), head(into))
    assert len(h) == 9


@pytest.mark.parametrize("model", [CNN, "{name: vit, patch: 2, width: 8, heads: 2, depth: 2}"])
def test_columns_start_from_the_base_or_anew(model: str) -> None:
    made = {start: method_on(f"{{pnn: {{start: {start}}}}}", model=model) for start in STARTS}
    compared = 0
    for start, method in made.items():
        for task_id in range(2):
            method.begin(method.benchmark.task(task_id))
        column = method.network.get_submodule("columns.0.layers")
        base = list(method.network.backbone.parameters())
        for ours, theirs in zip(column.parameters(), base, strict=True):
            if theirs.dim() > 1 and theirs.any():
                assert torch.equal(ours, theirs) == (start == "base")
                compared += 1
        assert torch.equal(torch.cat([p.flatten() for p in base]), flat(made["base"]))
    assert compared >= 2 * 2


STARTS = ("base", "random")


def flat(method: PNN) -> Tensor:
    return torch.cat([p.flatten() for p in method.network.backbone.parameters()])


def test_what_columns_cannot_be_made_of_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="column_width goes with model mlp"):
        lora_cl.run(experiment(HALF, model=CNN), results=tmp_path, jobs=0, progress=False)
    large = "{name: timm, model: test_vit, size: 32}"
    with pytest.raises(ConfigError, match=r"\w+ cannot be drawn anew .* use start: base"):
        lora_cl.run(experiment("pnn", model=large), results=tmp_path, jobs=0, progress=False)
    assert not list(tmp_path.iterdir())


# The contract


def test_isolated_with_the_optimizer_kept(tmp_path: Path) -> None:
    train = OPTIMIZERS[0] + ", optimizer_state: keep"
    assert run_one(experiment("pnn", "class", train), tmp_path).result["isolated"] is True


def test_cost_by_hand(tmp_path: Path) -> None:
    result = run_one(experiment("pnn"), tmp_path).result
    cost = result["cost"]
    # A column with its head: 32*16 + 16 + 16*16 + 16 + 16*2 + 2 = 834.
    # Lateral, into layer 2 and the head: alpha 2*1, V 2*16*16 (k = 1) or 2*16*32 (k = 2),
    # U 16*16 + 2*16 = 288: 802 and 1314.
    assert result["details"] == {
        "lateral_parameters": [0, 802, 1314],
        "column_parameters": [834, 834, 834],
    }
    assert cost["trained_params_per_task"] == pytest.approx((834 + 1636 + 2148) / 3)
    assert cost["added_params_per_task"] == (1636 + 2148) / 2
    assert cost["total_params"] == 834 + 1636 + 2148
    assert cost["stored_bytes"] == 4 * (834 + 1636 + 2148)


def test_cost_of_narrow_columns_by_hand(tmp_path: Path) -> None:
    result = run_one(experiment(HALF), tmp_path).result
    # 32*8 + 8 + 8*8 + 8 + 8*2 + 2 = 354. Adapters 8 wide beside 16, then 16 + 8 units:
    # 2 + 2*8*16 + 8*8 + 2*8 = 338, and 2 + 2*8*24 + 80 = 466.
    assert result["details"] == {
        "lateral_parameters": [0, 338, 466],
        "column_parameters": [834, 354, 354],
    }
    assert result["cost"]["total_params"] == 834 + 354 + 338 + 354 + 466
