"""What images become before a network sees them, and how a network is filled and cut."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from lora_cl.errors import ConfigError
from lora_cl.models import images
from lora_cl.models.backbone import stages
from lora_cl.models.images import ImageNetwork, Images, Wanted, fill, images_for, in_order
from lora_cl.models.same import SameConv2d


def test_by_hand():
    # Each pixel of 1 x 2 becomes one of 1 x 4; between them a quarter and three quarters.
    x = torch.tensor([[[[0.0, 1.0]]]])
    made = Images(1, 4, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))(x)
    row = torch.tensor([0.0, 0.25, 0.75, 1.0])
    expected = torch.stack([(row - 0.5) / 0.5, (row - 0.25) / 0.25, row])
    assert torch.equal(made, expected[None, :, None, :])


def test_shrinking_by_hand():
    # Triangles four pixels to each side of the middle: 5, 7, 7, 5, 3 and 1 of 28 parts.
    x = torch.zeros(1, 1, 8, 8)
    x[..., 0] = 1.0
    made = Images(2, 2)(x)[0, 0]
    assert made.flatten().tolist() == pytest.approx([5 / 28, 0.0] * 2)


def test_an_image_of_the_size_that_is_wanted_is_the_same_to_the_bit():
    x = torch.rand(2, 3, 5, 7)
    assert torch.equal(Images(5, 7)(x), x)
    assert torch.equal(Images(5, 7)(x[:, :1]), x[:, :1].expand(-1, 3, -1, -1))
    assert Images(5, 7).state_dict() == {}


def test_sizes():
    wanted = Wanted(224, (0.5,) * 3, (0.5,) * 3)
    grey = torch.Size((1, 8, 6))
    assert images_for("m", grey, None, wanted).size == (224, 224)
    assert images_for("m", grey, 64, wanted).size == (64, 64)
    assert images_for("m", grey, None, None).size == (8, 6)
    assert images_for("m", grey, 9, None).size == (9, 9)
    assert images_for("m", grey, None, None).mean is None


@pytest.mark.parametrize("shape", [(5,), (2, 8, 8), (8, 8), (4, 8, 8)])
def test_what_is_no_image_is_refused(shape):
    with pytest.raises(ConfigError, match=r"model m needs images \(C, H, W\) with 1 or 3 channels"):
        images_for("m", torch.Size(shape), None, None)


class Net(nn.Module):
    """As torchvision writes them: children, and a forward that runs them."""

    def __init__(self, twice: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Identity()
        self.twice = twice

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc(self.pool(self.stem(x)).flatten(1))
        return 2 * x if self.twice else x


def test_children_that_run_in_order_are_stages():
    x = torch.rand(1, 3, 8, 8)
    net = Net()
    chain = in_order(net, x, net(x))
    assert stages(chain) == [*net.stem, net.pool, chain.flatten, net.fc]
    assert torch.equal(chain(x), net(x))
    assert [n for n, _ in chain.named_parameters()] == [n for n, _ in net.named_parameters()]


def test_a_network_that_does_more_is_one_stage():
    x = torch.rand(1, 3, 8, 8)
    net = Net(twice=True)
    assert in_order(net, x, net(x)) is net
    assert stages(net) == [net]


def small() -> nn.Sequential:
    layers = OrderedDict(a=nn.Linear(2, 2), norm=nn.BatchNorm1d(2), head=nn.Linear(2, 9))
    return nn.Sequential(layers)


def test_filling_leaves_the_classifier_alone():
    torch.manual_seed(0)
    net, other = small(), small()
    kept = net.head.weight.clone()
    tensors = {k: v for k, v in other.state_dict().items() if k != "norm.num_batches_tracked"}
    fill(net, {**tensors, "head.weight": torch.zeros(7, 7)}, ["head"])
    assert torch.equal(net.a.weight, other.a.weight)
    assert torch.equal(net.head.weight, kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a.weight": torch.zeros(3, 2)}, r"a\.weight has shape \(3, 2\), needed is \(2, 2\)$"),
        ({"a.bias": torch.zeros(2, dtype=torch.float64)}, r"a\.bias has type float64; allowed: fl"),
        ({"a.bias": torch.tensor([0.0, float("nan")])}, r"a\.bias holds a NaN"),
        ({"b.bias": torch.zeros(2)}, r"the weights do not fit: b\.bias has no place$"),
        ({"a.bias": None, "norm.bias": None}, r"a\.bias is missing; norm\.bias is missing$"),
        ({f"x{n}": torch.zeros(1) for n in range(5)}, r"x0 has .*x1 has .*x2 has .*; and 2 more$"),
    ],
)
def test_weights_that_do_not_fit_are_named(change, message):
    tensors = {**small().state_dict(), **change}
    with pytest.raises(ConfigError, match=message):
        fill(small(), {k: v for k, v in tensors.items() if v is not None}, ["head"])


@pytest.mark.parametrize(
    ("kernel", "stride", "side", "out"), [(3, 2, 8, 4), (3, 2, 7, 4), (5, 2, 8, 4), (2, 1, 5, 5)]
)
def test_padding_as_tensorflow_has_it(kernel, stride, side, out):
    conv = SameConv2d(2, 3, kernel, stride)
    x = torch.rand(1, 2, side, side)
    assert conv(x).shape == (1, 3, out, out)
    # The odd zero is below and to the right.
    missing = max(0, (out - 1) * stride + kernel - side)
    before = missing // 2
    assert torch.equal(conv.padded(x)[:, :, before : before + side, before : before + side], x)
    assert conv.padded(x).shape[2] == side + missing


def test_few_images_go_through_at_a_time_where_nothing_is_learned(monkeypatch):
    monkeypatch.setattr(images, "PIXELS", 3 * 16)
    network = ImageNetwork("net", Images(4, 4), Net())
    assert network.rows_at_once == 3
    seen = []
    network.network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    x = torch.rand(7, 3, 4, 4)
    with torch.no_grad():
        parted = network(x)
    whole = network(x)
    assert seen == [3, 3, 1, 7]
    assert torch.allclose(parted, whole, atol=1e-6)
