"""(b) Whole processes: ``lora-cl run`` against the same training as an Avalanche script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import venv
from pathlib import Path
from statistics import mean, median

import numpy as np
import yaml

from lora_cl.data import data_root, make_source
from lora_cl.results import load_records
from tests.bench.measure import COMMAND, ROOT, Row, Setting, at_least, process, ratio, take_turns
from tests.bench.sides import SPLIT_MNIST

SCRIPT = Path(__file__).with_name("avalanche_naive.py")
VERSION = "0.6.0"
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

    def ours(seeds: int, jobs: int) -> float:
        command = [COMMAND, "run", config, "--results", results, "--jobs", str(jobs), "--force"]
        return process([*command, "-o", f"seeds={seeds}"])

    def avalanche(threads: int, seeds: int) -> float:
        start = time.perf_counter()
        done = subprocess.run(
            [interpreter, SCRIPT, images, str(threads), str(seeds)],
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

    one = take_turns(
        setting.of(5, 1),
        {
            "ours": lambda: ours(1, 0),
            "one thread": lambda: avalanche(1, 1),
            "torch's threads": lambda: avalanche(0, 1),
        },
        warm_up=not setting.quick,
    )
    best = min(("one thread", "torch's threads"), key=lambda name: median(one[name]))
    threads = 1 if best == "one thread" else 0
    five = take_turns(
        setting.of(3, 1),
        {"ours": lambda: ours(5, 2), "avalanche": lambda: avalanche(threads, 5)},
        warm_up=False,
    )
    note = f"Avalanche {VERSION} with {best}, the faster of two ways"
    return [
        at_least(
            3,
            "(b) Avalanche / lora-cl run, one run",
            median(one["ours"]),
            median(one[best]),
            "s",
            ratio(one, best, "ours"),
            note,
        ),
        at_least(
            7,
            "(b) Avalanche / lora-cl run, five seeds",
            median(five["ours"]),
            median(five["avalanche"]),
            "s",
            ratio(five, "avalanche", "ours"),
            f"--jobs 2; {note}, seeds one after another in one process",
        ),
    ]


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
