"""(b) Whole processes: ``lora-cl run`` against the same training as an Avalanche script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import mean, median

import numpy as np
import yaml

from lora_cl.data import data_root, make_source
from lora_cl.records.folders import load_records
from tests.bench.measure import COMMAND, ROOT, Row, Setting, at_least, process, ratio, take_turns
from tests.bench.sides import SPLIT_MNIST

SCRIPT = Path(__file__).with_name("avalanche_naive.py")
VERSION = "0.6.0"
WAYS = {
    "tutorial": "its SplitMNIST, as its documentation shows it",
    "tensors": "float32 tensors made once, fused Adam",
}
STEPS = 471
"""Batches of 128 in the 5 tasks of Split-MNIST, the last one of each task smaller."""


def rows(setting: Setting) -> list[Row]:
    """Measurement (b): class-incremental, because there one plain head serves both sides."""
    interpreter = avalanche_interpreter()
    if interpreter is None:
        print("(b) skipped: avalanche-lib cannot be installed here", file=sys.stderr)
        return [Row("(b) skipped: avalanche-lib cannot be installed here", 0, None, "", None)]
    config = setting.scratch / "processes.yaml"
    config.write_text(
        yaml.safe_dump({**SPLIT_MNIST, "scenario": "class", "methods": {"full": {}}, "seeds": 5})
    )
    images = setting.scratch / "mnist.npz"
    data = make_source("mnist").load(data_root(None))
    parts = ("x_train", "y_train", "x_test", "y_test")
    np.savez(images, **{name: getattr(data, name).numpy() for name in parts})
    results = setting.scratch / "processes"
    where = {"tutorial": data_root(None), "tensors": images}

    def ours(threads: int, seeds: int) -> float:
        command = [COMMAND, "run", config, "--results", results, "--force"]
        return process([*command, "-o", f"seeds={seeds}", "-o", f"threads={threads}"])

    def avalanche(way: str, threads: int, seeds: int) -> float:
        start = time.perf_counter()
        done = subprocess.run(
            [interpreter, "-W", "ignore", SCRIPT, way, where[way], str(threads), str(seeds)],
            capture_output=True,
            text=True,
            env={name: v for name, v in os.environ.items() if name != "OMP_NUM_THREADS"},
        )
        seconds = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f"the Avalanche script failed:\n{done.stderr[-2000:]}")
        for line in done.stdout.splitlines():
            check_same_work(json.loads(line), results)
        return seconds

    def sides(
        seeds: int, own: Sequence[int], threads: Mapping[str, Sequence[int]]
    ) -> dict[str, Callable[[], float]]:
        found: dict[str, Callable[[], float]] = {
            f"ours {number}": partial(ours, number, seeds) for number in own
        }
        for way in WAYS:
            for number in threads[way]:
                found[f"{way} {number}"] = partial(avalanche, way, number, seeds)
        return found

    both = dict.fromkeys(WAYS, (0, 1))
    ours(1, 1)  # What both import is in memory now; finding Avalanche imported that, too.
    cores = os.cpu_count() or 1
    one = take_turns(setting.of(3, 1), sides(1, sorted({1, cores}), both), warm_up=False)
    best = {way: min((0, 1), key=lambda n, way=way: median(one[f"{way} {n}"])) for way in WAYS}
    chosen = {way: [number] for way, number in best.items()}
    five = take_turns(setting.of(3, 1), sides(5, [1], chosen), warm_up=False)
    cases = [(one, "one run", 1, 3), (five, "five seeds", 1, 7)]
    if cores > 1:
        cases.insert(1, (one, f"one run with threads: {cores}", cores, 3))
    found = []
    for seconds, what, own, limit in cases:
        for way, written in WAYS.items():
            other = f"{way} {best[way]}"
            used = "one thread" if best[way] else "torch's threads"
            note = f"Avalanche {VERSION} with {used}, the faster of the two"
            note += "" if seconds is one else "; its seeds one after another in one process"
            found.append(
                at_least(
                    limit,
                    f"(b) Avalanche / lora-cl run, {what}: {written}",
                    median(seconds[f"ours {own}"]),
                    median(seconds[other]),
                    "s",
                    ratio(seconds, other, f"ours {own}"),
                    note,
                )
            )
    return found


def check_same_work(answer: dict[str, object], results: Path) -> None:
    """Both sides did as many steps and forgot alike (the weights they start from differ)."""
    if answer["steps"] != STEPS:
        raise AssertionError(f"Avalanche did {answer['steps']} steps, not {STEPS}")
    records = load_records([results]) if results.is_dir() else []
    for record in records:
        last = record.result["accuracy_matrix"][-1]
        if abs(mean(last) - mean(answer["accuracies"])) > 0.03:  # type: ignore[arg-type]
            raise AssertionError(f"not the same work: {last} and {answer['accuracies']}")


def avalanche_interpreter() -> Path | None:
    """The python of LORA_CL_AVALANCHE, or of .venv-avalanche, made if need be, or None."""
    given = os.environ.get("LORA_CL_AVALANCHE")
    place = Path(given) if given else ROOT / ".venv-avalanche"
    python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not given and not python.exists():
        venv.create(place, with_pip=True)
    if _has_avalanche(python):
        return python
    if given:
        return None
    print(f"installing avalanche-lib {VERSION} into {place.name}", file=sys.stderr)
    command = [python, "-m", "pip", "install", "--quiet", f"avalanche-lib=={VERSION}"]
    subprocess.run(command, check=False, capture_output=True)
    return python if _has_avalanche(python) else None


def _has_avalanche(python: Path) -> bool:
    if not python.exists():
        return False
    command = [python, "-W", "ignore", "-c", "import avalanche.training.supervised"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
