"""(a) Our step and evaluation against a loop by hand, (c) against PEFT, (d) against each other."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from statistics import median

import torch
from torch import nn

from lora_cl.running.making import make_benchmark
from lora_cl.training import loop
from tests.bench.measure import (
    Row,
    Setting,
    at_least,
    at_most,
    cpu_clocked,
    ratio,
    same_loss,
    take_turns,
)
from tests.bench.sides import (
    LORA,
    Recorded,
    adapter_factors,
    in_process,
    lora_mlp,
    one_thread,
    plain_mlp,
    run_config,
    train_by_hand,
)

Side = Callable[[], float]


def rows(setting: Setting) -> list[Row]:
    """Measurements (a), (c) and (d): a round is all 5 tasks of Split-MNIST on every side."""
    runs = {
        "full": run_config({"full": {}}, cache=False),
        "lora, no cache": run_config({"lora": LORA}, cache=False),
        "lora": run_config({"lora": LORA}),
        "frozen": run_config({"frozen": {}}),
    }
    records: dict[str, list[Recorded]] = {}
    whole: dict[str, list[float]] = {name: [] for name in runs}

    def ours(name: str) -> Side:
        def side() -> float:
            result, records[name] = in_process(runs[name], setting.scratch / "steps")
            whole[name].append(result["cost"]["train_seconds"])
            return sum(record.seconds for record in records[name])

        return side

    def by_hand(name: str, build: Callable[[Recorded], nn.Module], tolerance: float) -> Side:
        def side() -> float:
            total = 0.0
            with one_thread():
                for record in records[name]:
                    seconds, losses = train_by_hand(build(record), record)
                    same_loss(name, float(losses[-1]), record.last_loss, tolerance)
                    total += seconds
            return total

        return side

    sides = {name: ours(name) for name in runs} | {
        "full by hand": by_hand("full", plain_mlp, 1e-5),
        "lora by hand": by_hand("lora, no cache", lora_mlp, 1e-5),
        # PEFT orders its arithmetic in another way, and rounding grows over the steps.
        "peft": by_hand("lora, no cache", peft_mlp, 1e-2),
    }
    for name in sides:  # Ours first: the other sides take their batches and weights from it.
        sides[name]()
    for cached, plain in zip(records["lora"], records["lora, no cache"], strict=True):
        same_loss("lora with its cache", cached.last_loss, plain.last_loss, 0.0)
    whole = {name: [] for name in runs}
    seconds = take_turns(setting.of(15, 3), sides, warm_up=False)
    steps = sum(record.total_steps for record in records["full"])
    ms = {name: 1000 * median(values) / steps for name, values in seconds.items()}

    def against(name: str, other: str) -> tuple[float, float, str, float]:
        return ms[name], ms[other], "ms a step", ratio(seconds, name, other)

    def times_faster(name: str) -> tuple[float, float, str, float]:
        return ms[name], ms["peft"], "ms a step", ratio(seconds, "peft", name)

    def tasks(name: str) -> tuple[float, float, str, float]:
        return median(whole[name]), median(whole["full"]), "s", ratio(whole, name, "full")

    plain, cached = "lora, no cache", "what a run does; no target of its own"
    rest = "with data, frozen prefix and sealing"
    return [
        at_most(1.10, "(a) step of full / by hand", *against("full", "full by hand")),
        at_most(1.10, "(a) step of lora, no cache / by hand", *against(plain, "lora by hand")),
        Row("(a) step of lora / by hand", *against("lora", "lora by hand"), note=cached),
        *evaluation(setting, records["full"][-1]),
        at_least(1.2, "(c) PEFT / step of lora", *times_faster("lora")),
        Row("(c) PEFT / step of lora, no cache", *times_faster(plain)),
        at_most(0.70, "(d) step of lora / of full", *against("lora", "full")),
        at_most(0.15, "(d) step of frozen / of full", *against("frozen", "full")),
        Row(f"(d) learning of lora / of full, {steps} steps", *tasks("lora"), note=rest),
        Row(f"(d) learning of frozen / of full, {steps} steps", *tasks("frozen"), note=rest),
    ]


def evaluation(setting: Setting, record: Recorded) -> list[Row]:
    """(a) ``loop.accuracy`` against an evaluation by hand of the same 5 test sets."""
    network = plain_mlp(record)
    benchmark = make_benchmark(run_config({"full": {}}).parse(), 0, torch.device("cpu"), None)
    samples = [benchmark.task(index).test() for index in range(benchmark.n_tasks)]
    found: dict[str, list[float]] = {}

    def ours() -> None:
        found["ours"] = [loop.accuracy(network, s.x, s.y) for s in samples]

    @torch.inference_mode()
    def by_hand() -> None:
        network.eval()
        found["hand"] = []
        for s in samples:
            right = torch.zeros((), dtype=torch.int64)
            for x, y in zip(torch.split(s.x, 2048), torch.split(s.y, 2048), strict=True):
                right += (network(x).argmax(1) == y).sum()
            found["hand"].append(right.item() / len(s.y))

    with one_thread():
        seconds = take_turns(
            setting.of(60, 10), {"ours": cpu_clocked(ours), "hand": cpu_clocked(by_hand)}
        )
    if found["ours"] != found["hand"]:
        raise AssertionError(f"evaluation: not the same work: {found}")
    ms = {name: 1000 * median(values) for name, values in seconds.items()}
    name = "(a) evaluation of 10 000 images / by hand"
    return [at_most(1.10, name, ms["ours"], ms["hand"], "ms", ratio(seconds, "ours", "hand"))]


def peft_mlp(record: Recorded) -> nn.Module:
    """``plain_mlp`` with PEFT's LoRA on both hidden layers, starting where ours starts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=8, lora_alpha=16, target_modules=["1", "3"], modules_to_save=["5"])
        network = get_peft_model(plain_mlp(record), config)
    layers = {1: network.base_model.model[1], 2: network.base_model.model[3]}
    for number, layer in layers.items():
        A, B = adapter_factors(record.weights, number)
        layer.lora_A["default"].weight.data.copy_(A)
        layer.lora_B["default"].weight.data.copy_(B)
    return network
