"""The strict base class of every part's options, and the choice of one part among several."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, Union

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    create_model,
)

from lora_cl.errors import ConfigError
from lora_cl.plugins import Parts


class OptionsBase(BaseModel):
    """Options of one part, as they stand in the YAML: frozen, typed, no unknown keys.

    A field whose ``json_schema_extra`` holds ``{"hashed": False}`` says where or how fast a run
    happens, not what it computes; it is left out of the run's hash.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )


class PartError(ValueError):
    """The options of a part from another package are wrong: pydantic's ``errors``.

    Their keys are those of ``model``.
    """

    def __init__(self, errors: list[Any], model: type[OptionsBase]) -> None:
        super().__init__("the options are wrong")
        self.errors, self.model = errors, model


def choice(parts: Mapping[str, type[Any]], key: str = "name") -> Any:
    """The pydantic type of "one of these parts": ``{key: NAME, ...its options}``, or just NAME.

    ``parts`` are options, or classes with ``Options``. The validated value is an instance of the
    part's options with one more field, ``key``.
    """
    members = tuple(named_options(options_of(part), name, key) for name, part in parts.items())

    def from_name(value: Any) -> Any:
        return {key: value} if isinstance(value, str) else value

    def from_elsewhere(value: Any, ours: ValidatorFunctionWrapHandler) -> Any:
        name = value.get(key) if isinstance(value, Mapping) else None
        if not isinstance(parts, Parts) or not isinstance(name, str) or name in parts:
            return ours(value)
        if not parts.knows(name):
            raise ValueError(parts.unknown(name))
        try:
            options = options_of(parts[name])
        except ConfigError as error:
            raise ValueError(str(error)) from None
        model = named_options(options, name, key)
        try:
            return model.model_validate(value)
        except ValidationError as error:
            raise PartError(error.errors(), model) from None

    one_of: Any = Union[members] if len(members) > 1 else members[0]  # noqa: UP007
    discriminated: Any = Annotated[one_of, Field(discriminator=key)] if len(members) > 1 else one_of
    return Annotated[
        SerializeAsAny[discriminated],  # type: ignore[misc]
        WrapValidator(from_elsewhere),
        BeforeValidator(from_name),
    ]


def options_of(part: type[Any]) -> type[OptionsBase]:
    found: type[OptionsBase] = part if issubclass(part, OptionsBase) else part.Options
    return found


@cache
def named_options(options: type[OptionsBase], name: str, key: str) -> type[OptionsBase]:
    """``options`` with the field ``key``, which holds ``name``."""
    model: type[OptionsBase] = create_model(
        re.sub(r"\W", "_", f"{options.__module__.rpartition('.')[2]}_{name}"),
        __base__=options,
        __module__=options.__module__,
        **{key: (Literal[name], name)},  # type: ignore[call-overload]
    )
    return model
