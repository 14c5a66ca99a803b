"""The strict base class of every part's options, and the choice of one part among several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, create_model


class OptionsBase(BaseModel):
    """Options of one part, as they stand in the YAML: frozen, typed, no unknown keys.

    A field whose ``json_schema_extra`` holds ``{"hashed": False}`` says where or how fast a run
    happens, not what it computes; it is left out of the run's hash.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )


def choice(registry: Mapping[str, type[OptionsBase]], key: str = "name") -> Any:
    """The pydantic type of "one of these parts": ``{key: NAME, ...its options}``, or just NAME.

    The validated value is an instance of the part's options with one more field, ``key``.
    """
    members = tuple(
        create_model(
            f"{options.__module__.rpartition('.')[2]}_{name}".replace("-", "_"),
            __base__=options,
            __module__=options.__module__,
            **{key: (Literal[name], name)},  # type: ignore[call-overload]
        )
        for name, options in registry.items()
    )

    def from_name(value: Any) -> Any:
        return {key: value} if isinstance(value, str) else value

    one_of = Union[members] if len(members) > 1 else members[0]  # noqa: UP007
    discriminated = Annotated[one_of, Field(discriminator=key)] if len(members) > 1 else one_of
    return Annotated[discriminated, BeforeValidator(from_name)]
