"""A hundred kills of the real command, over every method that is quick enough, in all scenarios."""

from __future__ import annotations

import random
import signal
from collections import Counter
from pathlib import Path

import pytest
from kill_cases import end_again_and_again, finish_and_compare, undisturbed

KILLS = 100

CONFIG = """
name: soak-{scenario}
benchmark: {{name: split, dataset: {{name: synthetic, classes: 8, train_per_class: 100}}, tasks: 4}}
scenario: {scenario}
model: {{hidden: [24, 24], dropout: 0.1}}
train: {{epochs: 80, batch_size: 16, optimizer_state: {state}}}
methods: {{{methods}}}
checkpoint_seconds: 0.02
"""

METHODS = {
    "task": "lora: {rank: 2}, packnet: , pnn: , shared_private: , adalora: , qlora: ",
    "domain": "full: , dora: {router: prototype}, inflora: , seq_lora: , joint: ",
    "class": "replay: , lwf: , si: , ewc: {adapter: lora}, o_lora: , lora: {router: entropy}",
}


@pytest.mark.soak
def test_a_hundred_kills(tmp_path: Path) -> None:
    dice = random.Random(2024)
    runs = {}
    for scenario, methods in METHODS.items():
        config = tmp_path / f"{scenario}.yaml"
        state = "keep" if scenario == "class" else "reset"
        config.write_text(CONFIG.format(scenario=scenario, methods=methods, state=state))
        runs[scenario] = undisturbed(config, tmp_path / "whole")
    ended: Counter[str] = Counter()
    compared, slowest, round_number = 0, 0.0, 0
    while ended["SIGKILL"] < KILLS:
        scenario = list(METHODS)[round_number % len(METHODS)]
        config, results = tmp_path / f"{scenario}.yaml", tmp_path / f"cut-{round_number}"
        signals = [signal.SIGKILL] * 12 + [signal.SIGINT, signal.SIGTERM]
        dice.shuffle(signals)
        tally = end_again_and_again(config, results, runs[scenario], signals, dice)
        finish_and_compare(config, results, tmp_path / "whole", runs[scenario])
        ended.update(tally.ended)
        compared += len(runs[scenario])
        slowest = max(slowest, tally.slowest)
        round_number += 1
        print(f"round {round_number}, {scenario}: {dict(ended)}, {compared} runs equal", flush=True)
    print(
        f"{sum(ended.values())} ends ({dict(ended)}), {compared} runs compared byte by byte with "
        f"undisturbed ones: all equal; slowest answer to an interrupt {slowest:.2f} s"
    )
    assert slowest < 2.0
