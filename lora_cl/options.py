"""The strict base class of every part's options, and the choice of one part among several."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
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
    field_validator,
)
from pydantic_core import PydanticCustomError

from lora_cl.errors import ConfigError
from lora_cl.plugins import Parts

LARGEST = 2**31 - 1
"""No whole number of a config is larger: every library below takes at least as many bits."""


class OptionsBase(BaseModel):
    """Options of one part, as they stand in the YAML: frozen, typed, no unknown keys.

    A field whose ``json_schema_extra`` holds ``{"hashed": False}`` says where or how fast a run
    happens, not what it computes; it is left out of the run's hash. ``hashed_as`` is what is hashed
    of the others.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    def hashed_as(self, name: str) -> Any:
        """What stands for the field ``name`` where a run is known by its options: its value."""
        return getattr(self, name)

    @field_validator("*", mode="after")
    @classmethod
    def _no_larger_than_libraries_take(cls, value: Any) -> Any:
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, int) and abs(number) > LARGEST:
                raise PydanticCustomError("too_large", f"Input should be at most {LARGEST}")
        return value


def user_path(path: str | Path) -> Path:
    """``path`` with ``~`` or ``~user`` at its beginning replaced by that home directory.

    Raises ValueError, in one line, if no file can be called so.
    """
    text = str(path)
    if not text:
        raise ValueError("is empty; a path is needed")
    try:
        named = os.fsencode(text)
    except UnicodeEncodeError:
        raise ValueError(f"{text!r} holds a character that no path can hold") from None
    if b"\0" in named:
        raise ValueError(f"{text!r} holds a NUL character, which no path can hold")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        user = Path(text).parts[0].removeprefix("~")
        who = f"no user {user} here" if user else "no home directory here"
        raise ValueError(f"{text}: there is {who}; write the whole path") from None


def _checked(path: Any) -> Any:
    if isinstance(path, str | Path):
        user_path(path)
    return path


PathOption = Annotated[
    Path, BeforeValidator(_checked), Field(strict=False, json_schema_extra={"hashed": False})
]
"""A path in a config, kept as it is written; ``user_path`` makes it one to open."""


class AtKeyError(ValueError):
    """A ValueError of a validator that knows which key below its own is to blame."""

    def __init__(self, path: Sequence[str], message: str) -> None:
        super().__init__(message)
        self.path = tuple(path)


class PartError(ValueError):
    """The options of a part from another package are wrong: pydantic's ``errors``.

    Their keys are those of ``model``.
    """

    def __init__(self, errors: list[Any], model: type[OptionsBase]) -> None:
        super().__init__("the options are wrong")
        self.errors, self.model = errors, model


def choice(
    parts: Mapping[str, type[Any]], key: str = "name", common: type[OptionsBase] = OptionsBase
) -> Any:
    """The pydantic type of "one of these parts": ``{key: NAME, ...its options}``, or just NAME.

    ``parts`` are options, or classes with ``Options``. The validated value is an instance of the
    part's options, and of ``common``, which all have, with one more field, ``key``.
    """
    members = tuple(
        named_options(options_of(part), name, key, common) for name, part in parts.items()
    )

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
        model = named_options(options, name, key, common)
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
def named_options(
    options: type[OptionsBase], name: str, key: str, common: type[OptionsBase] = OptionsBase
) -> type[OptionsBase]:
    """``options`` with the fields of ``common`` and the field ``key``, which holds ``name``."""
    model: type[OptionsBase] = create_model(
        re.sub(r"\W", "_", f"{options.__module__.rpartition('.')[2]}_{name}"),
        __base__=options if issubclass(options, common) else (common, options),
        __module__=options.__module__,
        **{key: (Literal[name], name)},  # type: ignore[call-overload]
    )
    return model
