"""A finished run as it was at its end."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import ValidationError

from lora_cl.config import Config
from lora_cl.errors import ResultsError
from lora_cl.methods import Method
from lora_cl.records.results import read_result
from lora_cl.running.checkpoints import AdapterFolder, load_tensors, require_owner
from lora_cl.running.making import make_benchmark, make_method
from lora_cl.running.session import MODEL
from lora_cl.text import one_line


def load_run(folder: Path, device: str = "cpu", data_dir: Path | None = None) -> Method:
    """The method of a finished run as it was at its end: ``view(k)`` answers bit for bit the same.

    Its config is the one in the record, which is checked for damage. Raises ResultsError if the
    folder does not hold a finished run.
    """
    result = read_result(folder)
    if result is None or result.get("status") != "done":
        status = "unfinished" if result is None else result.get("status")
        raise ResultsError(f"{folder}: does not hold a finished run; this one is {status}")
    run = str(result["hash"])
    try:
        config = Config.model_validate(result["config"])
    except ValidationError as error:
        reason = one_line(error.errors()[0]["msg"].removeprefix("Value error, "))
        raise ResultsError(f"{folder}: its config is not one of this version: {reason}") from None
    place = torch.device(device)
    tensors, meta = load_tensors(folder / MODEL)
    require_owner(folder / MODEL, meta, run=run)
    benchmark = make_benchmark(config, config.seeds[0], place, data_dir)
    bank = AdapterFolder(folder / "adapters", place, run)
    for task_id in meta["sealed"]:
        if task_id not in bank:
            raise ResultsError(f"{bank.path(task_id)}: the adapter of task {task_id} is missing")
    method = make_method(config, benchmark, bank, place, data_dir)
    for index in range(int(meta["tasks"])):
        method.begin(benchmark.task(index))
    method.load_state_dict(tensors)
    return method
