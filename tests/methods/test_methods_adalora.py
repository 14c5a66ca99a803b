from __future__ import annotations

from pathlib import Path
from typing import Any

import adapters_reference as reference
import numpy as np
import pytest
import torch
from low_rank_cases import (
    experiment,
    learn,
    method_on,
)
from method_cases import run_one
from sklearn.datasets import load_digits

import lora_cl
from lora_cl.errors import ConfigError
from lora_cl.methods.adalora import AdaLoRA

ADALORA = "adalora: {rank: 3, target_rank: 2, alpha: 6, every: 1}"
PARTS = ("lora_B", "lora_E", "lora_A")


def adalora(*args: Any, **named: Any) -> AdaLoRA:
    method = method_on(*args, **named)
    assert isinstance(method, AdaLoRA)
    return method


class Watched:
    """Replays importance and budget of a run by the reference, next to the real thing."""

    def __init__(self, total: int, warmup: int, final: int, every: int) -> None:
        self.total, self.warmup, self.final, self.every = total, warmup, final, every
        self.choices, self.ranks = 0, {}
        self.expected: dict[tuple[str, str], reference.Importance] = {}

    def before(self, method: AdaLoRA, step: int) -> None:
        if step == 1:
            self.expected = {
                (layer, part): reference.Importance(tuple(adapter.get_parameter(part).shape))
                for layer, adapter in method._adapters.items()
                for part in PARTS
            }
        if step <= self.total - self.final:
            for (layer, part), importance in self.expected.items():
                parameter = method._adapters[layer].get_parameter(part)
                assert parameter.grad is not None
                weight = parameter.detach().double().numpy()
                importance.update(weight, parameter.grad.double().numpy())

    def after(self, method: AdaLoRA, step: int) -> None:
        last = self.total - self.final
        if step != last and not (self.warmup < step < last and step % self.every == 0):
            return
        scores = np.concatenate(
            [
                reference.triplet_score(
                    self.expected[layer, "lora_B"].score,
                    self.expected[layer, "lora_E"].score[:, 0],
                    self.expected[layer, "lora_A"].score,
                )
                for layer in method._adapters
            ]
        )
        budget = reference.budget(step, self.total, 6, 4, self.warmup, self.final)
        alive = np.isin(np.arange(6), np.argsort(-scores)[:budget])
        lambdas = torch.cat([a.lora_E.detach().flatten() for a in method._adapters.values()])
        assert (lambdas != 0).tolist() == alive.tolist()
        self.choices += 1
        if step == last:
            task = str(method.learned[-1])
            self.ranks[task] = {"linear1": int(alive[:3].sum()), "linear2": int(alive[3:].sum())}


def test_a_whole_run_against_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # t_i = 0.2 * 20 = 4 and t_f = 0.25 * 20 = 5: choices at 6, 9, 12 and at the last one, 15.
    watched = Watched(total=20, warmup=4, final=5, every=3)
    after_step = AdaLoRA.after_step

    def watch(self: AdaLoRA, step: int, total_steps: int) -> None:
        assert total_steps == 20
        watched.before(self, step)
        after_step(self, step, total_steps)
        watched.after(self, step)

    monkeypatch.setattr(AdaLoRA, "after_step", watch)
    options = "rank: 3, target_rank: 2, every: 3, warmup: 0.2, final: 0.25"
    one = experiment(f"adalora: {{{options}}}", train="lr: 0.01", duration="iterations: 20")
    record = run_one(one, tmp_path)
    assert watched.choices == 3 * 4
    assert record.result["details"] == {"ranks": watched.ranks}
    assert [sum(ranks.values()) for ranks in watched.ranks.values()] == [4, 4, 4]


def test_costs_by_hand(tmp_path: Path) -> None:
    # Trained: 3 (32 + 16 + 1) + 3 (16 + 16 + 1) + head 34 = 280. Kept of a task with ranks
    # r1 and r2: 49 r1 + 33 r2 + 34.
    record = run_one(experiment(ADALORA), tmp_path)
    ranks = record.result["details"]["ranks"]
    assert list(ranks) == ["0", "1", "2"]
    kept = [49 * r["linear1"] + 33 * r["linear2"] + 34 for r in ranks.values()]
    cost = record.result["cost"]
    assert cost["trained_params_per_task"] == 280
    assert cost["added_params_per_task"] == (kept[1] + kept[2]) / 2
    assert cost["total_params"] == 800 + sum(kept)
    assert cost["stored_bytes"] == 4 * (800 + sum(kept))


@pytest.mark.parametrize("form", ["norm", "squared"])
def test_the_penalty_is_alive(form: str) -> None:
    method = adalora(f"adalora: {{rank: 3, target_rank: 2, orthogonality: 0.5, penalty: {form}}}")
    method.begin(method.benchmark.task(0))
    with method.view(0) as network:
        method.start_fit([method.benchmark.task(0)], network)
    penalty = method.penalty()
    assert penalty is not None
    squares = []
    for adapter in method._adapters.values():
        P, Q = adapter.lora_B.detach().numpy(), adapter.lora_A.detach().numpy()
        squares += [((P.T @ P - np.eye(3)) ** 2).sum(), ((Q @ Q.T - np.eye(3)) ** 2).sum()]
    assert len(squares) == 4
    expected = np.sqrt(squares).mean() if form == "norm" else sum(squares)
    assert float(penalty.detach()) == pytest.approx(0.5 * expected, rel=1e-5)
    penalty.backward()
    for adapter in method._adapters.values():
        assert adapter.lora_A.grad is not None
        assert adapter.lora_A.grad.abs().max() > 1e-3
        assert adapter.lora_B.grad is not None
        assert adapter.lora_B.grad.abs().max() > 1e-3


def ranks_of_digits(folder: Path, shuffled: bool, penalty: str) -> list[int]:
    """The rank of each layer on real digits under real or shuffled labels."""
    x, y = load_digits(return_X_y=True)
    y = np.random.default_rng(0).permutation(y) if shuffled else y
    parts = {"x": x[:1500] / 16, "y": y[:1500], "x_test": x[1500:], "y_test": y[1500:]}
    folder.mkdir(exist_ok=True)
    types = {"x": np.float32, "y": np.int64}
    np.savez(folder / "digits.npz", **{k: v.astype(types[k[0]]) for k, v in parts.items()})
    text = f"""
name: ranks
benchmark: {{name: split, dataset: {{name: npz, path: {folder}/digits.npz}}, tasks: 1}}
model: {{name: mlp, hidden: [64, 32, 16]}}
train: {{iterations: 60, batch_size: 64, lr: 0.01}}
methods: {{adalora: {{rank: 6, target_rank: 3, every: 5, penalty: {penalty}}}}}
"""
    record = run_one(lora_cl.parse_config(text, "test"), folder)
    return list(record.result["details"]["ranks"]["0"].values())


def test_the_labels_decide_the_ranks_and_not_the_penalty(tmp_path: Path) -> None:
    def ranks(penalty: str) -> list[list[int]]:
        kinds = {"real": False, "shuffled": True}
        return [ranks_of_digits(tmp_path / kind, kinds[kind], penalty) for kind in kinds]

    real, random = ranks("norm")
    assert sum(real) == sum(random) == 9
    assert real != random
    # The sum of squares outweighs the loss: what is learned makes no difference.
    real, random = ranks("squared")
    assert sum(real) == 9
    assert real == random


def test_the_penalty_can_be_left_out() -> None:
    method = adalora("adalora: {rank: 3, target_rank: 2, orthogonality: 0.0}")
    learn(method, [0])
    assert method.penalty() is None


def test_sealing_keeps_the_function_and_forgets_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method, x, before = adalora(ADALORA), torch.randn(8, 32), []
    seal = AdaLoRA.seal

    def watch(self: AdaLoRA, task: Any) -> None:
        assert any(key.startswith("kept.allocator.") for key in self.state_dict())
        with self.view(task.id) as network, torch.no_grad():
            before.append(network(x))
        seal(self, task)

    monkeypatch.setattr(AdaLoRA, "seal", watch)
    learn(method, [0, 1])
    assert len(before) == 2
    for task_id in (0, 1):
        with method.view(task_id) as network, torch.no_grad():
            torch.testing.assert_close(network(x), before[task_id], rtol=1e-6, atol=1e-6)
    assert method.kept == {}
    held = [v.shape[0] for k, v in method.bank[1].items() if k.endswith("lora_E")]
    assert sum(held) == 4
    assert all((v != 0).all() for k, v in method.bank[1].items() if k.endswith("lora_E"))


def test_a_sealed_adapter_goes_to_peft_and_back() -> None:
    method = adalora(ADALORA)
    learn(method, [0])
    whole = method.to_peft(method.bank[0])
    assert whole is not None
    assert (whole[0]["init_r"], whole[0]["target_r"]) == (3, 2)
    back = method.from_peft(*whole)
    assert back.keys() == method.bank[0].keys()
    assert all(torch.equal(back[k], v) for k, v in method.bank[0].items())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("rank: 4", "target_rank 8 is above rank 4"),
        ("warmup: 0.5, final: 0.5", "their sum must be below 1"),
    ],
)
def test_refusals(options: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        experiment(f"adalora: {{{options}}}")
