"""What a finished run's adapters can be used for, from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lora_cl.api import AnyPath, load_run, path_given
from lora_cl.config import Experiment
from lora_cl.errors import ConfigError
from lora_cl.methods.adapted import AdapterPerTask
from lora_cl.running import analysis, loading
from lora_cl.running.adding import with_task
from lora_cl.running.analysis import RANKS, Analysis
from lora_cl.running.answers import Answer, answers
from lora_cl.running.arithmetic import reproducible
from lora_cl.running.editing import with_adapter, without_adapter
from lora_cl.running.exporting import card_of, export, plain_base
from lora_cl.running.inspecting import require_bank, require_task
from lora_cl.running.loading import config_of
from lora_cl.running.merging import Merge, Worth, worth, write_merged
from lora_cl.running.serving import AdapterBank

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "add_task",
    "analyze",
    "export_adapter",
    "import_adapter",
    "load_bank",
    "load_base",
    "merge_adapters",
    "predict",
    "remove_adapter",
]


def add_task(
    folder: AnyPath,
    experiment: Experiment,
    output: AnyPath,
    *,
    device: str = "cpu",
    data_dir: AnyPath | None = None,
) -> tuple[int, float]:
    """Writes a bank into the folder ``output``: that of the run in ``folder``, and the one task of
    ``experiment``'s benchmark, learned by its ``train``; the task's number and test accuracy.

    Model and method are those of the run. Nothing of a task before moves, or it is an error.
    """
    method, result, place = _loaded(folder, device, data_dir)
    root = None if data_dir is None else path_given("data_dir", data_dir)
    config = experiment.config.model_copy(update={"model": config_of(place, result).model})
    return with_task(method, result, config, place, path_given("output", output), root)


def analyze(
    folder: AnyPath,
    ranks: Sequence[int] = RANKS,
    *,
    device: str = "cpu",
    data_dir: AnyPath | None = None,
) -> Analysis:
    """Of what rank the changes are that a run of `full` or `independent` made to the base's
    weights, and each task's accuracy with all of them cut to each of ``ranks``.

    The base is made again; the data sets of the run are needed. MethodError for other methods.
    """
    root = None if data_dir is None else path_given("data_dir", data_dir)
    with reproducible(threads=1):
        return analysis.analyze(path_given("folder", folder), list(ranks), root, device)


def load_bank(folder: AnyPath, device: str = "cpu", data_dir: AnyPath | None = None) -> AdapterBank:
    """All adapters of a finished run in memory, to switch between them or mix them in a batch.

    Raises ResultsError as ``load_run``, and MethodError where the run has no adapter per task.
    """
    return AdapterBank(load_run(folder, device, data_dir))


def load_base(
    folder: AnyPath, task: int, device: str = "cpu", data_dir: AnyPath | None = None
) -> nn.Module:
    """The network of a finished run without its adapters, as ``PeftModel.from_pretrained`` takes it
    for the adapter of ``task`` that ``lora-cl adapters export`` wrote: with a head of zeros.

    A network of torchvision, timm or transformers is the library's own module.
    """
    method, _, _ = _loaded(folder, device, data_dir)
    return plain_base(method, require_task(method, task))


def export_adapter(
    folder: AnyPath,
    task: int,
    output: AnyPath,
    *,
    form: str = "peft",
    merge: bool = False,
    data_dir: AnyPath | None = None,
) -> Path:
    """Writes the adapter of ``task``, and a model card, into the folder ``output``.

    ``form`` is peft, for ``PeftModel.from_pretrained``, or safetensors; with ``merge`` the network
    is written with the adapter in its weights. Raises ResultsError and MethodError.
    """
    target = path_given("output", output)
    method, result, _ = _loaded(folder, data_dir=data_dir)
    card = card_of(result, target, require_task(method, task))
    export(method, task, target, card, form, merge)
    return target


def import_adapter(
    folder: AnyPath,
    source: AnyPath,
    output: AnyPath,
    *,
    classes: Sequence[str],
    name: str = "imported",
    data_dir: AnyPath | None = None,
) -> int:
    """Writes a bank into the folder ``output``: that of the run in ``folder``, and the adapter in
    ``source`` that PEFT trained on the same base, as a new task, whose number is returned.

    ``classes`` are the names of its outputs. Raises ResultsError for what does not fit.
    """
    found, target = path_given("source", source), path_given("output", output)
    method, result, place = _loaded(folder, data_dir=data_dir)
    return with_adapter(method, result, found, name, list(classes), place, target)


def merge_adapters(
    folder: AnyPath,
    tasks: Sequence[int] | None = None,
    *,
    how: Sequence[str] = ("linear",),
    weights: Sequence[float] | None = None,
    density: float = 0.2,
    rank: int | None = None,
    output: AnyPath | None = None,
    device: str = "cpu",
    data_dir: AnyPath | None = None,
) -> list[Worth]:
    """Merges the adapters of ``tasks``, by default all, in each of the ways ``how``, and measures
    every task on its test set: without an adapter, with its own, and with each merge.

    ``output`` is a folder for the merged network, of one way alone. Raises MethodError for what
    cannot be merged; the data sets of the run are needed.
    """
    method, _, _ = _loaded(folder, device, data_dir)
    chosen = [
        require_task(method, task) for task in (sorted(method.bank) if tasks is None else tasks)
    ]
    merges = [Merge(chosen, cast(Any, one), weights, density, rank) for one in how]
    if output is not None and len(merges) != 1:
        raise ConfigError("output: holds one merged network; name one way to merge")
    with reproducible(threads=1):
        found = list(worth(method, merges))
        if output is not None:
            write_merged(method, merges[0], path_given("output", output))
    return found


def remove_adapter(
    folder: AnyPath, task: int, output: AnyPath, *, data_dir: AnyPath | None = None
) -> None:
    """Writes a bank into the folder ``output``: that of the run in ``folder`` without ``task``."""
    target = path_given("output", output)
    method, result, place = _loaded(folder, data_dir=data_dir)
    without_adapter(method, result, require_task(method, task), place, target)


def predict(
    folder: AnyPath,
    files: Sequence[AnyPath],
    *,
    task: int | None = None,
    router: str | None = None,
    column: str = "text",
    device: str = "cpu",
    data_dir: AnyPath | None = None,
) -> list[Answer]:
    """What a finished run says of ``files``: images, ``x`` of .npz archives, or the ``column`` of
    tables of texts; an answer for each input.

    Raises ResultsError, DataError or MethodError where there is none.
    """
    method = load_run(folder, device, data_dir)
    with reproducible(threads=1):
        return answers(method, [path_given("files", file) for file in files], task, router, column)


def _loaded(
    folder: AnyPath, device: str = "cpu", data_dir: AnyPath | None = None
) -> tuple[AdapterPerTask, dict[str, Any], Path]:
    """The method of a run that keeps an adapter per task, its record, and where it lies."""
    place = path_given("folder", folder)
    root = None if data_dir is None else path_given("data_dir", data_dir)
    with reproducible(threads=1):
        method, result = loading.loaded(place, device, root)
    return require_bank(method), result, place
