"""Saying what is wrong with a config: file, line, key, value, what is allowed, what is near."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lora_cl.config.model import NAME, Config


def message(
    error: Any,
    value: Any,
    lines: Mapping[tuple[str | int, ...], int],
    source: str,
    overridden: Sequence[tuple[str, ...]],
) -> str:
    """One line: file, line, key, value, what is allowed, the nearest match."""
    path = _real_path(error["loc"], value, error["type"])
    kind, context = error["type"], error.get("ctx", {})
    key = ".".join(str(part) for part in path)
    given = short(error["input"])
    if kind == "extra_forbidden":
        allowed = _allowed_keys(error["loc"])
        text = f"unknown key{did_you_mean(str(path[-1]), allowed)}"
        text += f"; allowed: {', '.join(allowed)}" if allowed else ""
    elif kind == "missing":
        text = "is missing"
    elif kind == "union_tag_invalid":
        allowed = sorted(re.findall(r"'([^']*)'", context["expected_tags"]))
        tag = str(context["tag"])
        text = f"nothing here is called {short(tag)}{did_you_mean(tag, allowed)}"
        text += f"; allowed: {', '.join(allowed)}"
    elif kind == "union_tag_not_found":
        text = f"{given} does not say which one: give a name, or a mapping with one"
    elif kind == "value_error":
        text = str(context["error"])
    elif kind == "string_pattern_mismatch" and context["pattern"] == NAME:
        text = f"{given} is not a name: letters, digits and _ . + -, at most 64, no other first"
    elif kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"])
        text = f"{given} is not allowed{did_you_mean(str(error['input']), allowed)}"
        text += f"; allowed: {', '.join(allowed)}"
    else:
        words = error["msg"][0].lower() + error["msg"][1:]
        text = f"{given} is not allowed: {words.replace('input should', 'it should')}"
    where = source
    if any(path[: len(given_path)] == given_path for given_path in overridden):
        where = f"-o {key}"
        return f"{where}: {text}"
    line = line_of(path, lines)
    where = f"{source}:{line}" if line else source
    return f"{where}: {key + ': ' if key else ''}{text}"


def _real_path(loc: Sequence[Any], value: Any, kind: str) -> tuple[str | int, ...]:
    """The part of a pydantic location that is in the file: without the names of union members."""
    path: list[Any] = []
    for index, part in enumerate(loc):
        last = index == len(loc) - 1
        if part == "[key]":
            break
        if (isinstance(value, dict) and part in value) or (
            isinstance(value, list) and isinstance(part, int) and part < len(value)
        ):
            value = value[part]
            path.append(part)
        elif last and kind == "missing":
            path.append(part)
    return tuple(path)


def _allowed_keys(loc: Sequence[str | int]) -> list[str]:
    """The keys that stand where ``loc``, an unknown key's location, is."""
    schema: Any = Config.model_json_schema(mode="validation")
    definitions = schema["$defs"]

    def properties(node: Any) -> Iterator[tuple[str, Any]]:
        if "$ref" in node:
            node = definitions[node["$ref"].rpartition("/")[2]]
        yield from node.get("properties", {}).items()

    def step(node: Any, part: str | int) -> Any:
        if "$ref" in node:
            node = definitions[node["$ref"].rpartition("/")[2]]
        for option in [*node.get("anyOf", []), node]:
            if "$ref" in option:
                option = definitions[option["$ref"].rpartition("/")[2]]
            if part in option.get("properties", {}):
                return option["properties"][part]
            mapping = option.get("discriminator", {}).get("mapping", {})
            if part in mapping:
                return {"$ref": mapping[part]}
            if isinstance(part, int) and "items" in option:
                return option["items"]
            if isinstance(option.get("additionalProperties"), dict):
                return option["additionalProperties"]
        return node

    node: Any = schema
    for part in loc[:-1]:
        node = step(node, part)
    for option in [node, *node.get("anyOf", [])]:
        names = [name for name, _ in properties(option)]
        if names:
            return names
    return []


def line_of(path: Sequence[str | int], lines: Mapping[tuple[str | int, ...], int]) -> int | None:
    """The line of the key, or of the nearest key around it."""
    for length in range(len(path), 0, -1):
        if tuple(path[:length]) in lines:
            return lines[tuple(path[:length])]
    return None


def did_you_mean(word: str, allowed: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, allowed, n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else "?" for c in text)
    text = text if len(text) <= 40 else f"{text[:37]}..."
    return f"'{text}'" if isinstance(value, str) else text
