"""How runs are trained: the `train:` that methods share, and what one of them has otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, create_model, model_serializer, model_validator

from lora_cl.methods.classifier import ClassifierOptions
from lora_cl.options import AtKeyError, OptionsBase

DURATIONS = ("epochs", "iterations")


def _one_duration(value: Any) -> Any:
    if isinstance(value, Mapping) and all(value.get(key) is not None for key in DURATIONS):
        raise AtKeyError(["iterations"], "give either epochs or iterations, not both")
    return value


class StepOptions(OptionsBase):
    """With what steps are taken. `micro_batch`: how many samples of a batch go through the network
    at once; null: all. `head_lr`: the learning rate of the heads; null: as all else."""

    batch_size: int = Field(default=128, ge=1)
    """Samples in a step."""
    micro_batch: int | None = Field(default=None, ge=1)
    """How many samples of a batch go through the network at once; null: all of them."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """The update rule."""
    lr: float = Field(default=1e-3, gt=0.0)
    """The learning rate."""
    head_lr: float | None = Field(default=None, gt=0.0)
    """The learning rate of the heads; null: `lr`."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """With `adamw` decoupled from the gradient, with `adam` and `sgd` added to it."""
    momentum: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Of `sgd` only."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """A factor on all rates, from 1 at the first step of a fit to 0 at its end."""
    clip_norm: float | None = Field(default=None, gt=0.0)
    """The largest norm of all gradients together; null: any."""
    precision: Literal["float32", "bf16"] = "float32"
    """Of products and convolutions while training; what is kept and measured stays float32."""

    @model_validator(mode="after")
    def _possible(self) -> StepOptions:
        if self.impossible:
            raise AtKeyError(["momentum"], self.impossible)
        return self

    @property
    def impossible(self) -> str:
        """Why these do not go together; empty if they do."""
        if self.momentum and self.optimizer != "sgd":
            return f"momentum goes with optimizer sgd, not {self.optimizer}"
        return ""


class TrainOptions(StepOptions):
    """How long and with what each task is trained: `epochs`, or a number of `iterations`."""

    epochs: int | None = Field(default=None, ge=1)
    """Passes over each task's samples; 1 where `iterations` is not given either."""
    iterations: int | None = Field(default=None, ge=1)
    """Steps on each task, in the place of `epochs`."""
    optimizer_state: Literal["reset", "keep"] = "reset"
    """What the optimiser knows when the next fit begins: nothing, or what it knew."""

    @model_validator(mode="before")
    @classmethod
    def _duration(cls, value: Any) -> Any:
        value = _one_duration(value)
        if isinstance(value, Mapping) and all(value.get(key) is None for key in DURATIONS):
            return {**value, "epochs": 1}
        return value


class Overrides(OptionsBase):
    """Some keys of other options: those that were given; the others have no value here."""

    of: ClassVar[type[OptionsBase]]
    """The other options."""

    @model_validator(mode="before")
    @classmethod
    def _duration(cls, value: Any) -> Any:
        return _one_duration(value)

    @model_serializer(mode="plain")
    def given(self) -> dict[str, Any]:
        """The keys that were given, in the order of the options, and their values."""
        names = [name for name in type(self).model_fields if name in self.model_fields_set]
        return {name: getattr(self, name) for name in names}


def _overriding(options: type[OptionsBase], name: str, doc: str) -> type[Overrides]:
    """The overrides of ``options``: its fields with their types and bounds, none with a default."""
    fields: dict[str, Any] = {}
    for key, field in options.model_fields.items():
        kind: Any = field.annotation
        for bound in field.metadata:
            kind = Annotated[kind, bound]
        fields[key] = (kind, Field(default_factory=lambda: None))
    made = create_model(name, __base__=Overrides, __module__=__name__, __doc__=doc, **fields)
    made.of = options
    return made


OwnTrain = _overriding(
    TrainOptions, "OwnTrain", "Keys of the shared `train:` that this method has otherwise."
)
OwnSteps = _overriding(
    StepOptions, "OwnSteps", "Keys of the shared `train:` that pretraining has otherwise."
)


class TunedOptions(OptionsBase):
    """Which values of a method a tuner chose, of how many trials, and the sha256 of its trace."""

    keys: list[str]
    """The keys whose values were chosen."""
    trials: int = Field(ge=1)
    """How many trials they were chosen from."""
    trace: str
    """The sha256 of the file with all trials."""


class MethodTraining(ClassifierOptions):
    """What every method can say besides its own options."""

    tuned: TunedOptions | None = None
    """Written by `lora-cl tune`: which values it chose."""
    train: OwnTrain = OwnTrain()  # type: ignore[valid-type]
    """Keys of the shared `train` that this method has otherwise, such as `lr`."""


Shared = TypeVar("Shared", bound=StepOptions)


def merged(shared: Shared, own: Overrides) -> Shared:
    """``shared`` with what ``own`` gives in its place: `iterations` in that of `epochs`, too.

    They may be ``impossible`` together.
    """
    given = {k: v for k, v in own.given().items() if k not in DURATIONS or v is not None}
    if not given.keys().isdisjoint(DURATIONS):
        given = dict.fromkeys(DURATIONS) | given
    return shared.model_copy(update=given)


def require_possible(shared: StepOptions, own: Overrides, path: tuple[str, ...]) -> None:
    """Raises AtKeyError, at a key of ``own`` below ``path``, if it does not go with ``shared``."""
    given = own.given()
    if given and (problem := merged(shared, own).impossible):
        if "momentum" in given:
            raise AtKeyError([*path, "momentum"], problem)
        raise AtKeyError(
            [*path, "optimizer"],
            f"{problem}, and train.momentum is {shared.momentum:g}; give momentum: 0 beside it",
        )


def steps_of(train: StepOptions) -> StepOptions:
    """``train`` without what is of tasks alone."""
    return StepOptions.model_construct(
        **{name: getattr(train, name) for name in StepOptions.model_fields}
    )


def differing(steps: StepOptions, shared: StepOptions) -> Overrides:
    """What makes ``steps`` of ``shared``: the keys that are not alike."""
    values = {name: getattr(steps, name) for name in StepOptions.model_fields}
    return OwnSteps.model_validate({k: v for k, v in values.items() if v != getattr(shared, k)})
