"""python -m tests.bench [NAME...] [--quick] [--output DIR]: measures how fast lora-cl is."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench import (
    choices,
    compiling,
    images,
    many_tasks,
    processes,
    protocol,
    shares,
    startup,
    steps,
    streaming,
    table,
    text,
)
from tests.bench.measure import Row, Setting

SECTIONS: dict[str, Callable[[Setting], list[Row]]] = {
    "steps": steps.rows,
    "processes": processes.rows,
    "startup": startup.rows,
    "tasks": many_tasks.rows,
    "protocol": protocol.rows,
    "shares": shares.rows,
    "choices": choices.rows,
    "compile": compiling.rows,
    "streaming": streaming.rows,
    "text": text.rows,
    "images": images.rows,
}


def main() -> int:
    """0 if every target is met, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(SECTIONS))
    parser.add_argument("--quick", action="store_true", help="few rounds; says only that it works")
    parser.add_argument("--output", type=Path, help="default: results/published; none if quick")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in SECTIONS]
    if unknown:
        parser.error(f"{unknown[0]}: is not one of {', '.join(SECTIONS)}")
    output = given.output or (None if given.quick else table.PUBLISHED)
    command = " ".join(["python -m tests.bench", *sys.argv[1:]])
    scratch = Path(tempfile.mkdtemp(prefix="bench-"))
    missed = 0
    try:
        for name in given.names or SECTIONS:
            start = time.perf_counter()
            print(f"{name} ...", file=sys.stderr, flush=True)
            (scratch / name).mkdir()
            rows = SECTIONS[name](Setting(given.quick, scratch / name))
            print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
            table.show(rows)
            missed += sum(row.met is False for row in rows)
            if output is not None:
                table.publish({name: rows}, command, output)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
