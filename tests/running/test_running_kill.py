"""The real command, ended by SIGKILL, Ctrl-C and SIGTERM at random moments, and started again."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
from kill_cases import end_again_and_again, finish_and_compare, undisturbed

pytestmark = pytest.mark.commands

CONFIG = """
name: kill
benchmark: {name: split, dataset: {name: synthetic, classes: 8, train_per_class: 100}, tasks: 4}
model: {hidden: [24, 24], dropout: 0.1}
train: {epochs: 20, batch_size: 16}
methods: {lora: {rank: 2}, packnet: {}, ewc: {}}
checkpoint_seconds: 0.05
"""


def test_ended_at_random_moments_it_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    config, whole, cut = tmp_path / "kill.yaml", tmp_path / "whole", tmp_path / "cut"
    config.write_text(CONFIG)
    runs = undisturbed(config, whole)
    signals = [signal.SIGKILL, signal.SIGINT, signal.SIGKILL, signal.SIGTERM]
    tally = end_again_and_again(config, cut, runs, signals, random.Random(1))
    finish_and_compare(config, cut, whole, runs)
    print(f"ended by {tally.ended}, all bytes equal; slowest answer {tally.slowest:.2f} s")
    assert tally.ended["SIGKILL"] == 2
    assert tally.ended["SIGINT"] == tally.ended["SIGTERM"] == 1
    assert tally.slowest < 2.0
