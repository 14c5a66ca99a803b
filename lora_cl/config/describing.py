"""What every option means: the text below it in the code, its default, and what is allowed.

Pydantic can collect such texts itself (``use_attribute_docstrings``), whenever a class is made:
that makes every command start five seconds later. Here they are read when somebody asks.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from lora_cl.options import OptionsBase

Schema = dict[str, Any]

MOST_NAMES = 8
"""Of parts to choose from; more are not listed again at every place."""


@dataclass(frozen=True)
class Option:
    """One key of a part's options. ``default`` is as in YAML, None where the key is required."""

    name: str
    default: str | None
    allowed: str
    meaning: str


def options(model: type[OptionsBase]) -> list[Option]:
    """The options of a part, in order, without the key that names the part."""
    schema = model.model_json_schema(schema_generator=Described)
    definitions = schema.get("$defs", {})
    required = schema.get("required", [])
    found = []
    for name, node in schema.get("properties", {}).items():
        if "const" in node:
            continue
        default = None if name in required else _yaml(node.get("default"))
        found.append(Option(name, default, allowed(node, definitions), node.get("description", "")))
    return found


class Described(GenerateJsonSchema):
    """A JSON Schema whose properties have the descriptions of ``descriptions``."""

    def model_schema(self, schema: core_schema.ModelSchema) -> Schema:
        found = super().model_schema(schema)
        model: type[BaseModel] = schema["cls"]
        texts = descriptions(model)
        for name, node in found.get("properties", {}).items():
            if name in texts:
                # Beside a reference a description stands as well; the schema is 2020-12.
                node["description"] = texts[name]
            elif "const" in node:
                node["description"] = "Says which one it is."
        return found


@cache
def descriptions(model: type[BaseModel]) -> Mapping[str, str]:
    """The text below each option in the code of ``model`` and of what it is derived from."""
    others = vars(model).get("of")
    if isinstance(others, type) and issubclass(others, OptionsBase):  # It overrides these.
        return descriptions(others)
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if base is not model and issubclass(base, OptionsBase) and base is not OptionsBase:
            found |= descriptions(base)
    return found | _below(model)


def _below(model: type[BaseModel]) -> dict[str, str]:
    """The texts in the body of one class; none where its source is not to be had."""
    if getattr(model, "__qualname__", "").find("<locals>") >= 0:
        return {}
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(model)))
    except (OSError, TypeError, SyntaxError):
        return {}
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef))
    found = {}
    for field, text in itertools.pairwise(body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)
        ):
            found[field.target.id] = " ".join(text.value.value.split())
    return found


def allowed(node: Schema, definitions: Mapping[str, Schema]) -> str:
    """What a property of a JSON Schema may be, in a few words."""
    if "$ref" in node:
        target = definitions[node["$ref"].rpartition("/")[2]]
        return (
            "a mapping of keys" if target.get("type") == "object" else allowed(target, definitions)
        )
    if "discriminator" in node:
        names = list(node["discriminator"]["mapping"])
        few = len(names) <= MOST_NAMES
        return f"{_listed(names) if few else 'one of the names below'}, with its options"
    if "anyOf" in node:
        parts = sorted(node["anyOf"], key=lambda one: one.get("type") != "null")
        return ", ".join(dict.fromkeys(allowed(one, definitions) for one in parts))
    if "enum" in node or "const" in node:
        return _listed(node.get("enum", [node.get("const")]))
    kind = node.get("type")
    if kind in ("integer", "number"):
        return f"{kind}{_bounds(node)}"
    if kind == "array":
        return _array(node, definitions)
    words = {"boolean": "`true`, `false`", "null": "`null`", "object": "a mapping of keys"}
    return words.get(str(kind), "path" if node.get("format") == "path" else "text")


def _array(node: Schema, definitions: Mapping[str, Schema]) -> str:
    least, most = node.get("minItems"), node.get("maxItems")
    number = f" of {least} to {most}" if least is not None and most is not None else ""
    number = f" of at least {least}" if least is not None and most is None else number
    items = node.get("items") or {}
    of = allowed(items, definitions) if items else "values"
    return f"list{number}: {of}"


def _bounds(node: Schema) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    above, below = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f" {low:g} to {high:.15g}"
    told = [
        f"{sign} {bound:.15g}"
        for sign, bound in ((">", above), ("≥", low), ("<", below), ("≤", high))
        if bound is not None
    ]
    return f" {', '.join(told)}" if told else ""


def _listed(values: Any) -> str:
    return ", ".join(f"`{_yaml(value)}`" for value in values)


def _yaml(value: Any) -> str:
    """A value as it may stand in a config, in a line."""
    return value if isinstance(value, str) else json.dumps(value)
