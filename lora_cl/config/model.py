"""What a config can say: the options that benchmarks, models and methods declare, assembled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from lora_cl.benchmarks import BenchmarkChoice, DatasetChoice
from lora_cl.benchmarks.benchmark import Stream
from lora_cl.config.train import (
    MethodTraining,
    OwnSteps,
    StepOptions,
    TrainOptions,
    merged,
    require_possible,
    steps_of,
)
from lora_cl.methods import METHODS
from lora_cl.models import BackboneChoice
from lora_cl.options import AtKeyError, OptionsBase, PathOption, choice
from lora_cl.text import one_line

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}$"

MAX_SEEDS = 10_000

COMPILE_DOES_NOT_PAY = (
    "true is refused: torch.compile takes 8 to 16 s, and a step of full or lora is then as long as "
    "before; measured in results/published/bench.md, section compile"
)

Name = Annotated[str, StringConstraints(pattern=NAME)]

MethodChoice: Any = choice(METHODS, "method", MethodTraining)


class ClassesOptions(OptionsBase):
    """A data set, all of it or some of its classes."""

    dataset: DatasetChoice
    """The data set."""
    classes: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2)] | None = None
    """Some of its classes, by number; null: all."""

    @model_validator(mode="after")
    def _distinct_classes(self) -> ClassesOptions:
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            raise AtKeyError(["classes"], f"{short(self.classes)} names a class twice")
        return self


class ProbeOptions(ClassesOptions):
    """What the backbone is asked about before the first task and after the last: classes that no
    task has, so that what pretraining gave and learning took away can be told."""


class PretrainOptions(ClassesOptions):
    """Train the backbone on a data set (all of it, or some classes) before the first task, with a
    head that is thrown away."""

    epochs: int = Field(default=1, ge=1)
    """Passes over it."""
    train: OwnSteps = OwnSteps()  # type: ignore[valid-type]
    """Keys of the shared `train` that pretraining has otherwise, such as `lr`."""


class BaseOptions(OptionsBase):
    """Where every method of a seed starts: random weights, a pretrained backbone, or a file."""

    pretrain: PretrainOptions | None = None
    """Train the backbone before the first task; null: random weights, or those of `weights` or
    of the model."""
    weights: PathOption | None = Field(default=None, json_schema_extra={"hashed": False})
    """A safetensors file of the backbone's weights."""

    @model_validator(mode="after")
    def _one_of(self) -> BaseOptions:
        if self.pretrain is not None and self.weights is not None:
            raise AtKeyError(["weights"], "give either pretrain or weights, not both")
        return self


class ResourceOptions(OptionsBase):
    """What a run takes of a cluster's node: `cpus`, by default `threads`, and a share of `gpus`."""

    cpus: float | None = Field(default=None, gt=0.0, le=1024.0)
    """Cores that a run takes of a cluster's node; null: `threads`."""
    gpus: float = Field(default=0.0, ge=0.0, le=64.0)
    """GPUs that a run takes of it; a share is allowed."""


class BudgetOptions(OptionsBase):
    """What each method may have at most: the option that decides its size is set by it.

    Either `added_params_per_task` or `stored_bytes`, as in the tables.
    """

    added_params_per_task: int | None = Field(default=None, ge=1)
    """The most parameters that a task may add."""
    stored_bytes: int | None = Field(default=None, ge=1)
    """The most bytes that may be stored."""

    @property
    def asked(self) -> tuple[str, int]:
        """Of what, and how much."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        ((name, most),) = ((name, most) for name, most in given.items() if most is not None)
        return name, most

    @model_validator(mode="after")
    def _one(self) -> BudgetOptions:
        names = list(type(self).model_fields)
        if sum(getattr(self, name) is not None for name in names) != 1:
            raise ValueError(f"give one of {', '.join(names)}")
        return self


class TrialOptions(OptionsBase):
    """A run that is measured to choose by: the first tasks (null: all), on samples held out.

    No test sample is in it. `lora-cl tune` makes such runs.
    """

    tasks: int | None = Field(default=None, ge=1)
    """How many tasks are trained on, the first ones; null: all."""


def _labels_name_methods(value: Any) -> Any:
    """A label that is a method's name needs no `method:` key; `label:` alone means no options."""
    if not isinstance(value, Mapping):
        return value
    named = {}
    for label, options in value.items():
        options = {} if options is None else options
        if isinstance(options, Mapping) and "method" not in options:
            options = {"method": label, **options}
        named[label] = options
    return named


def _count_as_list(value: Any) -> Any:
    """`seeds: 5` is the list 0..4."""
    if isinstance(value, list):
        return value
    if type(value) is not int or not 0 < value <= MAX_SEEDS:
        raise ValueError(
            f"{short(value)} is not allowed: it should be a number of seeds from 1 to {MAX_SEEDS}, "
            f"or a list of seeds"
        )
    return list(range(value))


def _mlp_by_default(value: Any) -> Any:
    """`model: {hidden: [100]}` is an mlp, as a config without `model` has one."""
    return {"name": "mlp", **value} if isinstance(value, Mapping) else value


Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Config(OptionsBase):
    """An experiment: benchmark x methods x seeds."""

    name: Name
    """What the experiment is called: in tables, and in its folder."""
    benchmark: BenchmarkChoice
    """The sequence of tasks."""
    scenario: Literal["task", "domain", "class"] = "task"
    """What is known at test time: `task`, the task id; `domain`, nothing, with the same labels
    in every task; `class`, nothing, with labels of its own in every task."""
    model: Annotated[BackboneChoice, BeforeValidator(_mlp_by_default)] = Field(
        default={}, validate_default=True
    )
    """The backbone."""
    base: BaseOptions = BaseOptions()
    """Where every method of a seed starts."""
    train: TrainOptions = Field(default={}, validate_default=True)
    """How all methods are trained, unless their own `train` says otherwise."""
    methods: Annotated[
        dict[Name, MethodChoice], Field(min_length=1), BeforeValidator(_labels_name_methods)
    ]
    """What is compared, by label: a method's options, and `method`, its name, where that is not
    the label."""
    seeds: Annotated[
        list[Seed], Field(min_length=1, max_length=MAX_SEEDS), BeforeValidator(_count_as_list)
    ] = Field(default=[0])
    """A number of seeds, counted from 0, or a list of them."""
    threads: int = Field(default=1, ge=1, le=1024)
    """Threads of each run."""
    cache: bool = True
    """Compute a frozen beginning of the network once a task, where that gives the same bits."""
    validation: float = Field(default=0.0, ge=0.0, lt=1.0)
    """The share of every task's training samples that is held out to choose by."""
    learning_curve: int = Field(default=0, ge=0, le=1000)
    """How many times a task's accuracy on samples held out is measured while it is learned."""
    probe: ProbeOptions | None = None
    """Classes that no task has, on which the backbone is measured before and after."""
    budget: BudgetOptions | None = None
    """Sizes every method to about as many parameters or bytes."""
    tuning: TrialOptions | None = None
    """Set by `lora-cl tune`: this is a trial."""
    stream: Stream = Field(default="auto", json_schema_extra={"hashed": False})
    """Keep the data set in host memory and make batches beside the training; `auto`: above 2
    GiB as float32."""
    resources: ResourceOptions = Field(
        default=ResourceOptions(), json_schema_extra={"hashed": False}
    )
    """What a run takes of a cluster's node."""
    compile: bool = Field(default=False, json_schema_extra={"hashed": False})
    """Refused: torch.compile takes longer than it saves here."""
    checkpoint_seconds: float = Field(default=30.0, ge=0.0, json_schema_extra={"hashed": False})
    """Seconds between two checkpoints of a run."""

    @model_validator(mode="before")
    @classmethod
    def _single_method(cls, value: Any) -> Any:
        """`method: {name: lora, rank: 8}` is one method labelled by its name."""
        if not isinstance(value, Mapping) or "method" not in value:
            return value
        if "methods" in value:
            raise AtKeyError(["method"], "give either method or methods, not both")
        method = value["method"]
        method = {"name": method} if isinstance(method, str) else method
        if not isinstance(method, Mapping) or not isinstance(method.get("name"), str):
            raise AtKeyError(
                ["method"], f"{short(method)} should be a name, or a mapping with a name"
            )
        options = {k: v for k, v in method.items() if k != "name"}
        rest = {k: v for k, v in value.items() if k != "method"}
        label = method["name"].rpartition(":")[2]
        return {**rest, "methods": {label: {"method": method["name"], **options}}}

    @model_validator(mode="after")
    def _measurable(self) -> Config:
        if self.learning_curve and not self.validation:
            message = "is measured on samples held out; give validation: 0.1 beside it"
            raise AtKeyError(["learning_curve"], message)
        return self

    @model_validator(mode="after")
    def _not_compiled(self) -> Config:
        if self.compile:
            raise AtKeyError(["compile"], COMPILE_DOES_NOT_PAY)
        return self

    @model_validator(mode="after")
    def _measured(self) -> Config:
        if self.tuning is not None and not self.validation:
            raise AtKeyError(["tuning"], "a trial is measured on samples held out; give validation")
        return self

    @model_validator(mode="after")
    def _distinct(self) -> Config:
        if len(set(self.seeds)) != len(self.seeds):
            raise AtKeyError(["seeds"], f"{short(self.seeds)} holds a seed twice")
        folded: dict[str, str] = {}
        for label in self.methods:
            twin = folded.setdefault(label.casefold(), label)
            if twin != label:
                raise AtKeyError(
                    ["methods"], f"the labels {twin!r} and {label!r} differ only in case"
                )
        return self

    @model_validator(mode="after")
    def _possible(self) -> Config:
        for label, options in self.methods.items():
            require_possible(self.train, options.train, ("methods", label, "train"))
        if self.base.pretrain is not None:
            require_possible(self.train, self.base.pretrain.train, ("base", "pretrain", "train"))
        return self

    def pretraining(self) -> StepOptions:
        """How a backbone is pretrained: as the config says for all methods, whatever one says."""
        assert self.base.pretrain is not None
        return merged(steps_of(self.train), self.base.pretrain.train)


def short(value: Any) -> str:
    """A value as one short line, in quotes if it is text."""
    if isinstance(value, str):
        return f"'{one_line(value, limit=40)}'"
    try:
        return one_line(repr(value), limit=40)
    except ValueError:
        return "a number of thousands of digits"
