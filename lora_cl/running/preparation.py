"""What must be right before anything starts: the config against its data, model and methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from lora_cl.adapters import left_out
from lora_cl.benchmarks import BENCHMARKS, Benchmark
from lora_cl.benchmarks.trial import Trial
from lora_cl.config import Config, Experiment, RunConfig
from lora_cl.config.model import ClassesOptions
from lora_cl.config.train import TrainOptions, merged
from lora_cl.data import Dataset, Source, data_root, pixels
from lora_cl.data.memory import require_memory
from lora_cl.data.source import named, numbered
from lora_cl.data.weights import Weights
from lora_cl.errors import ConfigError, DataError, LoraClError
from lora_cl.methods import METHODS, MemoryBank, Method
from lora_cl.methods.classifier import check_classifier
from lora_cl.methods.routing import check_router
from lora_cl.models import BACKBONES, build_network, encoded
from lora_cl.running.base import load_weights, weights_checksum
from lora_cl.running.budget import with_budget
from lora_cl.running.machine import code_version
from lora_cl.running.making import beside, code_of_others, sources
from lora_cl.running.targeting import auto_targets, candidates, with_targets

Say = Callable[[str], None]


def prepare(
    experiment: Experiment, data_dir: Path | None, say: Say, device: str = "cpu"
) -> list[RunConfig]:
    """The runs of an experiment, all checked; its data sets are fetched where they are missing.

    Those of one seed stand together, and what several points of a sweep ask for is there once.
    Raises ConfigError (with file, line and key) or DataError; then nothing was started.
    """
    found: dict[Path, RunConfig] = {}
    for point in experiment.points:
        for run in _prepared(point, data_dir, say, device):
            found.setdefault(run.folder, run)
    seeds = experiment.config.seeds
    return sorted(found.values(), key=lambda run: (seeds.index(run.seed), run.position))


def _prepared(
    experiment: Experiment, data_dir: Path | None, say: Say, device: str
) -> list[RunConfig]:
    root = data_root(data_dir)
    content = {"code": code_version(), "torch": torch.__version__}
    content["device"] = torch.device(device).type
    content |= code_of_others(experiment.config)
    for key, source in sources(experiment.config).items():
        with _blaming(experiment, key):
            source.fetch(root, say)
            content[key] = source.load(root).checksum
    with _blaming(experiment, "model"):
        if weights := _weights(experiment.config):
            weights.fetch(root, say)
            content["model.weights"] = weights.checksum(root)
    experiment, _ = _checked(experiment, data_dir)
    if experiment.config.base.weights is not None:
        content["base.weights"] = weights_checksum(Path(experiment.config.base.weights))
    return experiment.runs(content)


def check(experiment: Experiment, data_dir: Path | None) -> list[str]:
    """Builds benchmark, network and methods as a run would, and trains nothing.

    Every data set is loaded, and every task's labels are looked at. What was not looked at, such
    as a data set that is not here yet, is returned in words, and so are the layers that adapters
    leave out. Raises ConfigError or DataError, with file, line and key.
    """
    notes = [note for one in experiment.points for note in _checked(one, data_dir)[1]]
    return list(dict.fromkeys(notes))


def _checked(experiment: Experiment, data_dir: Path | None) -> tuple[Experiment, list[str]]:
    """The experiment with every method as large as its budget allows, and the notes."""
    config = experiment.config
    root = data_root(data_dir)
    outlines: dict[str, Dataset] = {}
    unseen: list[str] = []
    found = sources(config)
    for key, source in found.items():
        with _blaming(experiment, key):
            outlines[key], note = source.outline(root)
        unseen += [note] if note and note not in unseen else []
    with _blaming(experiment, "model"):
        weights = _weights(config)
    if weights is not None and weights.where(root) is None:
        return experiment, [*unseen, "the model's weights are not here yet: checked without them"]
    for key, data in outlines.items():
        with _blaming(experiment, key):
            outlines[key] = encoded(config.model, data, root)
    try:
        benchmark = _outlined(config, found, outlines)
        benchmark.check_samples()
        _check_model(config, benchmark.input_shape, root)
        if not unseen:
            config = with_budget(config, benchmark, root)
        for label in config.methods:
            note = _check_method(config, label, benchmark, root)
            unseen += [note] if note and note not in unseen else []
        for key, part in beside(config).items():
            data = outlines[f"{key}.dataset"]
            _check_classes(config, key, part, benchmark.input_shape, data, root)
    except ConfigError as error:
        raise experiment.error(str(error), error.key) from None
    return replace(experiment, config=config), unseen


def _weights(config: Config) -> Weights | None:
    return BACKBONES[config.model.name].pretrained(config.model)


@contextmanager
def _blaming(experiment: Experiment, key: str) -> Iterator[None]:
    """What is wrong inside is told with file and line of ``key``."""
    try:
        yield
    except DataError as error:
        raise DataError(str(experiment.error(str(error), key))) from None
    except ConfigError as error:
        raise experiment.error(str(error), error.key or key) from None


def _outlined(
    config: Config, found: Mapping[str, Source], outlines: Mapping[str, Dataset]
) -> Benchmark:
    """The benchmark of the first seed, over what is known of its data sets."""
    kind = BENCHMARKS[config.benchmark.name]
    own = {key: source for key, source in found.items() if key.startswith("benchmark.")}

    def load(source: Source) -> Dataset:
        return next(outlines[key] for key, one in own.items() if one is source)

    cpu, seed = torch.device("cpu"), config.seeds[0]
    whole = kind(
        config.benchmark,
        config.scenario,
        seed,
        list(own.values()),
        load,
        cpu,
        config.stream,
        config.validation,
    )
    _check_validation(config, whole)
    return whole if config.tuning is None else Trial(whole, config.tuning.tasks)


def _check_validation(config: Config, benchmark: Benchmark) -> None:
    """A benchmark of another package may make its tasks without holding anything out."""
    if config.validation and benchmark.task(0).validation is None:
        message = f"{config.benchmark.name} holds no samples out: it makes tasks without make_task"
        raise ConfigError(message, "validation")


def _check_model(config: Config, input_shape: torch.Size, root: Path) -> None:
    with _fitting_into_memory("model"):
        network = build_network(config.model, input_shape, 0, root)
    if config.base.weights is not None:
        load_weights(network, Path(config.base.weights))


def _check_method(config: Config, label: str, benchmark: Benchmark, root: Path) -> str:
    """Sets the method up; what of the network its adapters leave out, in words, or nothing."""
    options = config.methods[label]
    try:
        check_router(options, config.scenario)
        with _fitting_into_memory(f"methods.{label}"):
            network = build_network(config.model, benchmark.input_shape, 0, root)
        if auto := auto_targets(options):  # Which layers they are, the data will say.
            options = with_targets(options, candidates(network, auto))
        method = METHODS[options.method](options)
        check_classifier(options, options.method, method.private_heads, config.scenario)
        _check_parts(method, merged(config.train, options.train))
        method.check(benchmark)
        with _fitting_into_memory(f"methods.{label}"):
            method.setup(network, benchmark, seed=0, bank=MemoryBank())
    except LoraClError as error:
        key = error.key if isinstance(error, ConfigError) else None
        raise ConfigError(str(error), key or f"methods.{label}") from None
    targets = getattr(getattr(options, "adapter", None) or options, "targets", [])
    unfit = method.unfit_for_peft()
    notes = [left_out(network.backbone, targets), unfit and f"no files for PEFT: {unfit}"]
    return "; ".join(filter(None, notes))


def _check_parts(method: Method, train: TrainOptions) -> None:
    if train.micro_batch is not None and not method.loss_is_a_mean:
        raise ConfigError(
            f"train.micro_batch {train.micro_batch} does not go with a loss that compares the "
            "samples of a batch"
        )


class _Budget(TorchFunctionMode):
    """Adds up the tensors that layers are made of, before each is made."""

    asked = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty:
            size = kwargs.get("size", args)
            self.asked += 4 * prod(size[0] if size and not isinstance(size[0], int) else size)
            require_memory(self.asked, "it")
        return func(*args, **kwargs)


@contextmanager
def _fitting_into_memory(key: str) -> Iterator[None]:
    """What this machine has no memory for is a ConfigError that blames ``key``."""
    try:
        with _Budget():
            yield
    except DataError as error:
        raise ConfigError(str(error), key) from None
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            raise ConfigError("it needs more memory than there is now", key) from None
        raise


def _check_classes(
    config: Config,
    key: str,
    part: ClassesOptions,
    input_shape: torch.Size,
    data: Dataset,
    root: Path,
) -> None:
    """Refuses classes that ``data`` lacks, and inputs that are not of the benchmark's kind."""
    classes = part.classes or range(data.classes)
    unknown = [number for number in classes if number >= data.classes]
    if unknown:
        known = numbered(data.class_names)
        message = f"{data.name} has no class {unknown[0]}, only {known}"
        raise ConfigError(message, f"{key}.classes")
    there = set(torch.unique(data.y_train).tolist())
    if empty := [named(data.class_names, number) for number in classes if number not in there]:
        message = f"{data.name} has no training samples of {empty[0]}"
        raise ConfigError(message, f"{key}.dataset")
    network = build_network(config.model, input_shape, 0, root).eval()
    try:
        network.backbone(pixels(data.x_train[:1]))
    except RuntimeError:
        message = f"{data.name} has inputs of {tuple(data.x_train.shape[1:])}, the benchmark of "
        message += f"{tuple(input_shape)}: one backbone does not take both"
        raise ConfigError(message, f"{key}.dataset") from None
