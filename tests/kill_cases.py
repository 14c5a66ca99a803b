"""Runs that take some seconds, ended at random moments again and again until they are done."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from process_cases import command, events_size, finished, session_of, wait_until

from lora_cl.config import RunConfig, load_config
from lora_cl.records.results import status_of
from lora_cl.running.preparation import prepare
from lora_cl.running.runner import Where, run_one
from lora_cl.testing.runs import outcome


@dataclass
class Tally:
    """What was done to the command, and how long it took to answer."""

    ended: dict[str, int] = field(default_factory=dict)
    slowest: float = 0.0
    restarts: int = 0


def undisturbed(config: Path, results: Path) -> list[RunConfig]:
    """All runs of the config, done in this process without any disturbance."""
    runs = prepare(load_config(config), None, print)
    for run in runs:
        assert run_one(run, Where(results)).status == "done"
    return runs


def end_again_and_again(
    config: Path, results: Path, runs: list[RunConfig], signals: list[int], dice: random.Random
) -> Tally:
    """Starts the command anew for every signal, and ends it after a random while of progress."""
    tally = Tally()
    for number in signals:
        name = signal.Signals(number).name
        jobs = dice.choice(["0", "2"])
        with command("run", config, "--results", results, "--jobs", jobs) as process:
            before = events_size(results)
            assert wait_until(
                lambda before=before: events_size(results) > before or process.poll() is not None,
                60,
            )
            time.sleep(dice.random() * 0.6)
            if process.poll() is not None:
                assert process.returncode == 0, process.communicate()
                break
            start = time.monotonic()
            if number == signal.SIGKILL:
                process.kill()
            elif number == signal.SIGINT:
                os.killpg(process.pid, number)  # as a terminal does on Ctrl-C
            else:
                process.send_signal(number)
            out, err = process.communicate(timeout=30)
            took = time.monotonic() - start
            gone = wait_until(lambda process=process: not session_of(process.pid), 5)
            assert gone, f"{name} left processes: {session_of(process.pid)}"
            assert "Traceback" not in err
            if number != signal.SIGKILL:
                if process.returncode == 0:
                    break  # It was done just then.
                assert process.returncode == 130, err
                assert err.splitlines()[-1].startswith("interrupted")
                tally.slowest = max(tally.slowest, took)
            tally.ended[name] = tally.ended.get(name, 0) + 1
            assert out == ""
    return tally


def finish_and_compare(config: Path, results: Path, whole: Path, runs: list[RunConfig]) -> None:
    code, _, err = finished("run", config, "--results", results)
    assert code == 0, err
    for run in runs:
        assert status_of(results / run.folder, run.run_hash) == "done"
        assert outcome(results / run.folder) == outcome(whole / run.folder)
        assert not (results / run.folder / "checkpoint").exists()
