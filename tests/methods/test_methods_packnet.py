from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from method_cases import CNN, OPTIMIZERS, run_one, seen
from private_head_cases import experiment, learn, method_on, quick_fit
from torch import Tensor

import lora_cl
from lora_cl.errors import ConfigError
from lora_cl.methods.method import Method
from lora_cl.methods.packing import bits_for, pack, unpack
from lora_cl.methods.packnet import FREE, PackNet, packnet_kept, packnet_prune
from lora_cl.records.events import read_events


def packnet(*args: Any, **named: Any) -> PackNet:
    method = method_on(*args, **named)
    assert isinstance(method, PackNet)
    return method


# The formulas


def test_the_largest_magnitudes_are_kept() -> None:
    weight = torch.tensor([[3.0, -1.0], [2.0, -4.0]])
    everything = torch.ones(2, 2, dtype=torch.bool)
    assert packnet_prune(weight, everything, 2).tolist() == [[True, False], [False, True]]


def test_owned_weights_do_not_compete() -> None:
    weight = torch.tensor([[3.0, -1.0], [2.0, -4.0]])
    free = torch.tensor([[True, True], [True, False]])
    assert packnet_prune(weight, free, 2).tolist() == [[True, False], [True, False]]


def test_zeros_are_kept_before_owned_weights() -> None:
    weight, free = torch.tensor([0.0, 5.0, 0.0]), torch.tensor([True, False, True])
    assert packnet_prune(weight, free, 2).tolist() == [True, False, True]


def test_of_equal_magnitudes_the_first_win() -> None:
    weight = torch.tensor([1.0, -1.0, 1.0])
    assert packnet_prune(weight, weight != 0, 2).tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("free", "share", "kept"),
    [(10, 0.5, 5), (10, 0.34, 3), (10, 1.0, 10), (3, 0.1, 1), (1, 0.5, 1), (0, 0.5, 0)],
)
def test_how_many_are_kept(free: int, share: float, kept: int) -> None:
    assert packnet_kept(free, share) == kept


def test_packing_by_hand() -> None:
    # Bit 0 of 1, 0, 2, 3 is 1, 0, 0, 1: 1 + 8 = 9. Bit 1 is 0, 0, 1, 1: 4 + 8 = 12.
    assert pack(torch.tensor([1, 0, 2, 3]), 2).tolist() == [[9], [12]]


@pytest.mark.parametrize("bits", [1, 2, 3, 8, 10])
def test_packing_round_trip(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(2**bits, (3, 7), generator=generator)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (bits, 3)  # 21 numbers need 3 bytes a bit.
    assert torch.equal(unpack(packed, 21), codes.flatten().int())


def test_bits() -> None:
    assert [bits_for(values) for values in (2, 3, 4, 5, 6, 256, 257)] == [1, 2, 2, 3, 3, 8, 9]


# The algorithm


def owners(method: PackNet) -> dict[str, Tensor]:
    return {name: method._owners(name) for name in method._weights()}


def test_equal_shares() -> None:
    # 512: 512/3 = 170.7 -> 171; 341/2 = 170.5 -> 170 (to even); 171.
    # 256: 85.3 -> 85; 171/2 = 85.5 -> 86 (to even); 85.
    method = packnet("packnet")
    learn(method, [0, 1, 2])
    assert method.details() == {
        "occupancy": {
            "linear1": {"weights": 512, "free": 0, "tasks": [171, 170, 171]},
            "linear2": {"weights": 256, "free": 0, "tasks": [85, 86, 85]},
        },
        "bits_per_owner": 2,
    }


def test_a_fixed_share_decays() -> None:
    method = packnet("{packnet: {keep: 0.5}}")
    learn(method, [0, 1, 2])
    occupancy = method.details()["occupancy"]
    assert occupancy["linear1"] == {"weights": 512, "free": 64, "tasks": [256, 128, 64]}


def test_it_trains_prunes_and_retrains() -> None:
    method = packnet("{packnet: {retrain_share: 0.25}}")
    calls: list[tuple[int, float, float, int]] = []
    inner = quick_fit(method)

    def fit(tasks: Any, *, start: float = 0.0, end: float = 1.0) -> None:
        free = int((owners(method)["linear2"] == FREE).sum())
        calls.append((tasks[0].id, start, end, free))
        inner(tasks, start=start, end=end)

    learn(method, [0, 1, 2], fit)
    assert calls == [
        (0, 0.0, 0.75, 256),
        (0, 0.75, 1.0, 171),
        (1, 0.0, 0.75, 171),
        (1, 0.75, 1.0, 85),
        # The last task keeps everything: there is nothing to mend by retraining.
        (2, 0.0, 1.0, 85),
    ]


@pytest.mark.parametrize(
    ("duration", "share", "steps"),
    [
        # 20 steps: two thirds of them are 13.3.
        ("iterations: 20", "", [13, 7, 13, 7, 20]),
        ("iterations: 20", "retrain_share: 0.9", [2, 18, 2, 18, 20]),
        ("iterations: 20", "retrain_share: 0", [20, 20, 20]),
        # 1 - 0.01 of 20 is 19.8, and 1 - 0.99 of it 0.2: at least one step before the pruning.
        ("iterations: 20", "retrain_share: 0.01", [20, 20, 20]),
        ("iterations: 20", "retrain_share: 0.99", [1, 19, 1, 19, 20]),
        ("iterations: 1", "", [1, 1, 1]),
        # 48 samples in batches of 16: 3 steps an epoch, 9 in three; 6 of them before the pruning.
        ("epochs: 3", "", [6, 3, 6, 3, 9]),
    ],
)
def test_training_and_retraining_take_the_steps_of_one_task(
    duration: str, share: str, steps: list[int], tmp_path: Path
) -> None:
    record = run_one(experiment(f"{{packnet: {{{share}}}}}", duration=duration), tmp_path)
    started = [e for e, _ in read_events(record.folder) if e["event"] == "fit_started"]
    assert [event["steps"] for event in started] == steps
    assert all(event["epochs"] == -(-event["steps"] // 3) for event in started)


def test_free_weights_stay_zero_in_retraining() -> None:
    method = packnet("{packnet: {keep: 0.25}}")
    learn(method, [0, 1])
    for name, weight in method._weights().items():
        free = weight[owners(method)[name] == FREE]
        assert len(free) > 100
        assert torch.equal(free.view(torch.int32), torch.zeros_like(free).view(torch.int32))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_owned_weights_never_move(optimizer: str) -> None:
    method = packnet("packnet")
    fit = quick_fit(method, optimizer)
    compared = 0
    learn(method, [0], fit)
    for task_id in (1, 2):
        before = {name: weight.detach().clone() for name, weight in method._weights().items()}
        owned = {name: owner != FREE for name, owner in owners(method).items()}
        learn(method, [task_id], fit)
        for name, weight in method._weights().items():
            assert torch.equal(weight[owned[name]], before[name][owned[name]])
            assert not torch.equal(weight, before[name])
            compared += 1
    assert compared == 4


def test_without_putting_back_they_would_move(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PackNet, "after_step", Method.after_step)
    method = packnet("packnet")
    learn(method, [0])
    before = seen(method, 0)
    learn(method, [1])
    assert seen(method, 0) != before


def test_a_view_uses_only_the_weights_of_its_and_earlier_tasks() -> None:
    method = packnet("packnet")
    learn(method, [0, 1, 2])
    whole = {name: tensor.clone() for name, tensor in method.network.state_dict().items()}
    for task_id in range(3):
        with method.view(task_id) as network:
            for name, owner in owners(method).items():
                weight = network.backbone.get_submodule(name).weight
                used = owner <= task_id + 1
                assert torch.equal(weight, whole[f"backbone.{name}.weight"] * used)
                bias = network.backbone.get_submodule(name).bias
                assert bias is method.network.backbone.get_submodule(name).bias
    after = method.network.state_dict()
    assert len(after) == 10
    assert all(torch.equal(after[name], tensor) for name, tensor in whole.items())


def test_biases_and_norms_train_on_the_first_task_only() -> None:
    method = packnet("packnet", model=CNN)

    def rest() -> dict[str, Tensor]:
        backbone = method.network.backbone.state_dict()
        weights = {f"{name}.weight" for name in method._weights()}
        return {name: t.clone() for name, t in backbone.items() if name not in weights}

    states = [rest()]
    for task_id in range(3):
        learn(method, [task_id])
        states.append(rest())
    # The linear layer's bias; the norm's weight, bias, mean, variance and counter.
    assert len(states[0]) == 6
    assert not any(torch.equal(states[0][name], states[1][name]) for name in states[0])
    for later in states[2:]:
        assert all(torch.equal(states[1][name], later[name]) for name in later)


def test_layers_are_pruned_one_by_one() -> None:
    method = packnet("{packnet: {keep: 0.5}}", model=CNN)
    learn(method, [0])
    occupancy = method.details()["occupancy"]
    # 4 filters of 3 x 3; 4 channels of 2 x 2 into 8.
    assert occupancy["conv1"] == {"weights": 36, "free": 18, "tasks": [18, 0, 0]}
    assert occupancy["linear"] == {"weights": 128, "free": 64, "tasks": [64, 0, 0]}


# Refusals


def test_no_room_is_said_before_anything_trains(tmp_path: Path) -> None:
    one = experiment("{packnet: {keep: 1.0}}")
    with pytest.raises(
        ConfigError, match=r"no free weight is left in layer linear1 .* task 1 of 3"
    ):
        lora_cl.run(one, results=tmp_path, jobs=0, progress=False)
    assert not list(tmp_path.iterdir())


def test_a_layer_with_fewer_weights_than_tasks() -> None:
    with pytest.raises(ConfigError, match=r"layer linear2 \(1 weights\) for task 1"):
        method_on("packnet", model="{name: mlp, hidden: [1, 1]}")


@pytest.mark.parametrize(
    ("option", "share"),
    [("keep", share) for share in ("0", "1.5", "half", "-1")]
    + [("retrain_share", share) for share in ("1", "-0.1", "half")],
)
def test_impossible_shares(option: str, share: str) -> None:
    with pytest.raises(ConfigError, match=option):
        experiment(f"{{packnet: {{{option}: {share}}}}}")


# The contract


def test_isolated_with_the_optimizer_kept_and_a_cnn(tmp_path: Path) -> None:
    train = OPTIMIZERS[0] + ", optimizer_state: keep, clip_norm: 1.0"
    record = run_one(experiment("packnet", "class", train, CNN), tmp_path)
    assert record.result["isolated"] is True


def test_cost_by_hand(tmp_path: Path) -> None:
    cost = run_one(experiment("packnet"), tmp_path).result["cost"]
    # Backbone 32*16 + 16 + 16*16 + 16 = 800, of which 768 are packed; a head has 16*2 + 2 = 34.
    assert cost["total_params"] == 800 + 3 * 34
    assert cost["added_params_per_task"] == 34
    # Free weights: 768, then 341 + 171, then 171 + 85. Biases (32) on the first task.
    trained = [768 + 32 + 34, 341 + 171 + 34, 171 + 85 + 34]
    assert cost["trained_params_per_task"] == pytest.approx(sum(trained) / 3)
    # Owners 0..3 take 2 bits: 512 * 2 / 8 + 256 * 2 / 8 bytes.
    assert cost["stored_bytes"] == 4 * 902 + 128 + 64
