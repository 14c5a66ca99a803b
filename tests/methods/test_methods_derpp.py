"""DER++ against its loss and its reservoir worked out by hand."""

from __future__ import annotations

import pytest
import torch
from method_cases import fit_of, learn_with, set_up, tiny
from torch.nn import functional

from lora_cl.methods.derpp import DERpp, dark_distance, reservoir_places


def made(options: str = "size: 20", scenario: str = "class") -> DERpp:
    method = set_up(tiny(f"derpp: {{{options}}}", scenario))
    assert isinstance(method, DERpp)
    return method


def test_the_distance_by_hand() -> None:
    now = torch.tensor([[1.0, 2.0, 9.0], [0.0, 1.0, 2.0]])
    then = torch.tensor([[0.0, 4.0, 0.0, 0.0], [1.0, 1.0, 5.0, 0.0]])
    # Two outputs of the first count: 1 + 4; three of the second: 1 + 0 + 9; five in all.
    assert float(dark_distance(now, then, torch.tensor([2, 3]))) == pytest.approx(15 / 5)


def test_every_sample_of_a_stream_is_kept_with_the_same_probability() -> None:
    kept = torch.zeros(30)
    for seed in range(2000):
        memory: dict[int, int] = {}
        for start in range(0, 30, 6):
            places, rows = reservoir_places(start, 6, 10, 1000 * seed + start)
            assert len(set(places.tolist())) == len(places)
            memory |= {p: start + r for p, r in zip(places.tolist(), rows.tolist(), strict=True)}
        assert sorted(memory) == list(range(10))
        kept[list(memory.values())] += 1
    # Each of the 30 in 10 places: a third; the deviation of 2000 draws is 0.011.
    assert float((kept / 2000 - 1 / 3).abs().max()) < 0.045


def test_what_is_stored_is_what_was_trained_on_with_its_outputs_then() -> None:
    method = made("size: 100")
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    take_in = method.take_in

    def noted(*step: torch.Tensor) -> None:
        seen.append(step)  # type: ignore[arg-type]
        take_in(*step)

    method.take_in = noted  # type: ignore[method-assign]
    learn_with(method, [0], fit_of(method))
    assert len(seen) == 6
    n = sum(len(y) for _, y, _ in seen)
    assert method.seen == n == 96
    for name, position in (("x", 0), ("y", 1), ("logits", 2)):
        expected = torch.cat([step[position] for step in seen])
        found = method.kept[f"memory.{name}"][:n]
        torch.testing.assert_close(found[:, :2] if name == "logits" else found, expected.to(found))
    assert method.kept["memory.outputs"][:n].unique().tolist() == [2]
    assert method.details() == {"memory_samples_per_task": [96]}


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_the_loss_written_out(scenario: str) -> None:
    method = made("size: 20, alpha: 0.3, beta: 0.7", scenario)
    learn_with(method, [0], fit_of(method))
    task = method.benchmark.task(1)
    method.begin(task)
    method.open_memory(task.train().x)
    samples = task.train()
    x, y = samples.x[:8], samples.y[:8]
    with method.view_together([task]) as network:
        method.start_fit([task], network)
        y = y + network.offsets[1]
        found = method.loss(network, x, y)
        method.set_step(0)
        dark, labelled = (method.draw_rows(name, 8, 20) for name in ("dark", "labels"))
        assert not torch.equal(dark, labelled)
        memory = method.kept
        now, then = network(memory["memory.x"][dark]), memory["memory.logits"][dark]
        # Task 0 had two outputs: with a head for each task, or of all classes, the first two.
        distance = (now[:, :2] - then[:, :2]).square().mean()
        logits = network(memory["memory.x"][labelled])
        old_y = memory["memory.y"][labelled].long()
        new = network(x)
        if scenario == "task":
            new, y, logits = new[:, 2:], y - 2, logits[:, :2]
        expected = functional.cross_entropy(new, y)
        expected = expected + 0.3 * distance + 0.7 * functional.cross_entropy(logits, old_y)
    torch.testing.assert_close(found, expected)


def test_pixels_are_stored_as_bytes() -> None:
    from lora_cl import parse_config

    text = """
name: t
benchmark: {name: split, dataset: digits, tasks: 5}
methods: {derpp: {size: 10}}
"""
    method = set_up(parse_config(text, "t"))
    assert isinstance(method, DERpp)
    learn_with(method, [0, 1], fit_of(method, steps=3))
    assert method.kept["memory.x"].dtype in (torch.uint8, torch.float32)
    samples = method.details()["memory_samples_per_task"]
    assert sum(samples) == 10
    assert len(samples) == 2


def test_without_weights_it_is_plain_training() -> None:
    """The memory then changes nothing: the same weights as `full`."""
    one, other = made("alpha: 0, beta: 0", "task"), set_up(tiny("full: {}", "task"))
    for method in (one, other):
        learn_with(method, [0, 1], fit_of(method, weight_decay=0.0))
    parameters = (m.network.backbone.parameters() for m in (one, other))
    for a, b in zip(*parameters, strict=True):
        torch.testing.assert_close(a, b)
