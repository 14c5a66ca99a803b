"""The optimisers do torch.optim's arithmetic, bit for bit."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from lora_cl.training.optimizers import make_optimizer

CASES = [
    ("adam", 0.0, 0.0, lambda p: torch.optim.Adam(p, 1e-2, fused=True)),
    ("adam", 0.1, 0.0, lambda p: torch.optim.Adam(p, 1e-2, weight_decay=0.1, fused=True)),
    ("adamw", 0.1, 0.0, lambda p: torch.optim.AdamW(p, 1e-2, weight_decay=0.1, fused=True)),
    ("sgd", 0.0, 0.0, lambda p: torch.optim.SGD(p, 1e-2, fused=True)),
    ("sgd", 0.1, 0.9, lambda p: torch.optim.SGD(p, 1e-2, 0.9, weight_decay=0.1, fused=True)),
]


@pytest.mark.parametrize(("name", "decay", "momentum", "theirs"), CASES)
def test_same_bits_as_torch_optim(name, decay, momentum, theirs):
    torch.manual_seed(0)
    ours, other = (copy.deepcopy(nn.Linear(5, 3)) for _ in range(2))
    other.load_state_dict(ours.state_dict())
    mine = make_optimizer(name, [{"params": ours.parameters()}], 1e-2, decay, momentum)
    reference = theirs(other.parameters())
    steps = 0
    for step in range(20):
        x = torch.randn(7, 5, generator=torch.Generator().manual_seed(step))
        for network, optimizer in ((ours, mine), (other, reference)):
            optimizer.zero_grad()
            network(x).square().mean().backward()
            optimizer.step()
        for a, b in zip(ours.parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b)
        steps += 1
    assert steps == 20


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_what_is_kept_of_a_network_learns_that_it_moved(name):
    """By the version of a tensor, which torch's fused kernels leave as it was."""
    moved, idle = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = make_optimizer(name, [{"params": [moved, idle]}], 0.1, 0.0, 0.0)
    for step in range(1, 3):
        moved.grad = torch.ones(2)
        before = moved._version
        optimizer.step()
        assert moved._version > before, step
    assert idle._version == 0


def test_a_parameter_without_gradient_stays_and_has_no_state():
    trained, idle = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = make_optimizer("adam", [{"params": [trained, idle]}], 0.1, 0.5, 0.0)
    trained.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(idle, torch.ones(2))
    assert idle not in optimizer.state
    # The first step of Adam is lr * sign(g) but for epsilon: 1 - 0.1 (decay keeps g positive).
    torch.testing.assert_close(trained.detach(), torch.full((2,), 0.9), atol=1e-6, rtol=0)


def test_a_group_scales_the_rate():
    slow, fast = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    groups = [{"params": [slow], "lr_scale": 0.1}, {"params": [fast]}]
    optimizer = make_optimizer("sgd", groups, 1.0, 0.0, 0.0)
    slow.grad = fast.grad = torch.ones(1)
    optimizer.step()
    assert slow.item() == pytest.approx(-0.1)
    assert fast.item() == pytest.approx(-1.0)


def test_heads_have_a_rate_of_their_own_where_there_is_one():
    """By identity, in every group; a group's scale holds for its heads, too. With gradient 1 a
    step of sgd is the rate."""

    def moved(head_lr):
        trunk, head, slow, slow_head = (nn.Parameter(torch.zeros(1)) for _ in range(4))
        groups = [{"params": [trunk, head]}, {"params": [slow, slow_head], "lr_scale": 0.5}]
        heads = iter([head, slow_head, nn.Parameter(torch.zeros(1))])
        optimizer = make_optimizer("sgd", groups, 0.25, 0.0, 0.0, head_lr, heads)
        parameters = [trunk, head, slow, slow_head]
        assert {id(p) for p in optimizer.parameters} == {id(p) for p in parameters}
        for parameter in parameters:
            parameter.grad = torch.ones(1)
        optimizer.step()
        return len(optimizer.groups), [-p.item() for p in parameters]

    assert moved(None) == (2, [0.25, 0.25, 0.125, 0.125])
    assert moved(1.0) == (4, [0.25, 1.0, 0.125, 0.5])


def test_training_imports_no_compiler():
    code = (
        "import sys, tempfile, lora_cl\n"
        "text = '''{name: t, benchmark: {name: split, tasks: 2, dataset: {name: synthetic, "
        "classes: 4, features: 4}}, model: {name: mlp, hidden: [4]}, methods: {full: {}}}'''\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    (record,) = lora_cl.run(lora_cl.parse_config(text, 't'), results=folder, jobs=0,\n"
        "                            progress=False)\n"
        "assert record.status == 'done', record.result\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
