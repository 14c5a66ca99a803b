"""A bank made of a finished run's: with an adapter that was trained elsewhere, or without one.

The run is never written to: a bank is a folder of its own, with a record that says what it is of.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lora_cl.errors import MethodError, ResultsError
from lora_cl.methods.adapted import AdapterPerTask
from lora_cl.records.confusion import NAME as CONFUSION
from lora_cl.records.files import make_within
from lora_cl.records.integrity import manifest
from lora_cl.records.layout import ADAPTERS, MODEL, SEALED, make_empty, task_folder
from lora_cl.records.results import BANK, write_result
from lora_cl.running.checkpoints import AdapterFolder, load_tensors, save_tensors
from lora_cl.running.importing import read_adapter
from lora_cl.text import one_line

Record = dict[str, Any]

NOTHING: Mapping[str, Tensor] = {}

MEASURED_OF_THE_RUN = ("cost", "routing", "validation_matrix", "probe")


def with_adapter(
    method: AdapterPerTask,
    result: Record,
    source: Path,
    name: str,
    classes: Sequence[str],
    run: Path,
    output: Path,
) -> int:
    """Writes the bank of ``run`` and the adapter in ``source``, in PEFT's format, as a new task
    into the folder ``output``; the number of the task. ResultsError for what does not fit.

    ``classes`` are the names of its outputs, in their order.
    """
    sealed = read_adapter(method, source)
    outputs = len(sealed["head.weight"])
    if len(classes) != outputs:
        raise ResultsError(f"{source}: has {outputs} outputs, and {len(classes)} classes are named")
    if len(set(classes)) != outputs or "" in classes:
        told = one_line(", ".join(classes), 80)
        raise ResultsError(f"classes {told}: each needs a name of its own")
    task, record = with_one_more(result, name, classes, None, "imported")
    write_bank(method, record, run, output, {task: sealed})
    return task


def with_one_more(
    result: Record, name: str, classes: Sequence[str], accuracy: float | None, how: str
) -> tuple[int, Record]:
    """The number of a task more, and the record that knows it; ``how`` it came is a key there."""
    task = len(result["tasks"])
    padded = [[*row, None] for row in result["accuracy_matrix"]]
    return task, result | {
        "tasks": [*result["tasks"], {"name": name, "classes": list(classes)}],
        "n_tasks": task + 1,
        "accuracy_matrix": [*padded, [*result["accuracy_matrix"][-1], accuracy]],
        CONFUSION: None,
        how: [*result.get(how, []), task],
    }


def without_adapter(
    method: AdapterPerTask, result: Record, task: int, run: Path, output: Path
) -> None:
    """Writes the bank of ``run`` without ``task`` into the folder ``output``; the others keep their
    numbers. MethodError if none would be left."""
    if len(method.bank) < 2:
        raise MethodError(f"task {task} is the only one; a bank holds at least one")
    changed = {"removed": [*result.get("removed", []), task]}
    write_bank(method, result | changed, run, output, {})


def write_bank(
    method: AdapterPerTask,
    record: Record,
    run: Path,
    output: Path,
    new: Mapping[int, dict[str, Tensor]],
    kept: Mapping[str, Tensor] = NOTHING,
) -> None:
    """Writes the bank that ``record`` tells of into ``output``: the tasks of ``run`` that are not
    removed, byte for byte, and ``new`` ones, sealed; ``kept`` is state that they bring besides."""
    make_empty(output)
    removed = record.get("removed", [])
    bank = AdapterFolder(output / ADAPTERS, method.network.device, str(record["hash"]))
    bank.encode, bank.decode = method.to_peft, method.from_peft
    for task in sorted(method.bank):
        if task not in removed:  # The very bytes: nothing of a task before moves.
            place = make_within(output, ADAPTERS, task_folder(task))
            for file in SEALED:
                if (found := run / ADAPTERS / task_folder(task) / file).exists():
                    shutil.copyfile(found, place / file)
    for task, sealed in new.items():
        bank[task] = sealed
    tensors, meta = load_tensors(run / MODEL)
    meta |= {"tasks": record["n_tasks"], "sealed": sorted(bank)}
    save_tensors(output / MODEL, {**tensors, **kept}, meta)
    # A bank is no run: what was measured of the run is told by the run.
    told = {k: v for k, v in record.items() if k not in MEASURED_OF_THE_RUN}
    write_result(output, {**told, "files": manifest(output), "bank_of": record["hash"]}, BANK)
