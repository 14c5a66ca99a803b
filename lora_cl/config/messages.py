"""Saying what is wrong with a config: file, line, key, value, what is allowed, what is near."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from lora_cl.config.model import NAME, short
from lora_cl.config.study import ConfigFile
from lora_cl.options import OptionsBase, PartError
from lora_cl.plugins import IMPORT_PATH
from lora_cl.text import did_you_mean, one_line

Path = Sequence[str | int]


Lines = Mapping[tuple[str | int, ...], int]

Words = dict[tuple[str | int, ...], tuple[str, str]]
"""By path: a plain word of the file that YAML does not read as text, and what as."""

MAX_PROBLEMS = 20

# Kinds of problems where text may have been meant.
TEXT_WANTED = ("string_type", "literal_error", "path_type", "model_attributes_type")


def messages(
    errors: Sequence[Any],
    value: Any,
    lines: Lines,
    source: str,
    overridden: Sequence[Path],
    words: Words,
) -> str:
    """A line for each problem: file, line, key, value, what is allowed, the nearest match."""
    found: dict[str, list[str]] = {}
    errors = list(_flat(errors))
    for error in errors[:MAX_PROBLEMS]:
        where, given, text = _message(error, value, lines, source, overridden, words)
        texts = found.setdefault(f"{where}: {given}", [])
        if text not in texts:
            texts.append(text)
    told = [head + texts[0] + "".join(map(_or, texts[1:])) for head, texts in found.items()]
    if len(errors) > MAX_PROBLEMS:
        told.append(f"{source}: and {len(errors) - MAX_PROBLEMS} more")
    return "\n".join(told)


def _flat(errors: Sequence[Any]) -> Iterator[Any]:
    """The errors, and in the place of one about another package's part those within it."""
    for error in errors:
        inside = error.get("ctx", {}).get("error")
        if not isinstance(inside, PartError):
            yield error
            continue
        for inner in _flat(inside.errors):
            within = inner.get("within", (inside.model, inner["loc"]))
            yield {**inner, "within": within, "loc": (*error["loc"], *inner["loc"])}


def _or(text: str) -> str:
    """What else is allowed, where a value can be one of several things."""
    return f", or {text.lstrip(':; ')}"


def _message(
    error: Any,
    value: Any,
    lines: Lines,
    source: str,
    overridden: Sequence[Path],
    words: Words,
) -> tuple[str, str, str]:
    """Where a problem is, the value there if one is to blame, and what is wrong with it."""
    kind, context = error["type"], error.get("ctx", {})
    path = _real_path(_as_given(error["loc"], value), value, kind)
    given, text = "", ""
    allowed: list[str] = []
    if kind == "extra_forbidden":
        allowed = _allowed_keys(*error.get("within", (ConfigFile, error["loc"])))
        text = f"unknown key{did_you_mean(str(path[-1]), allowed)}{_list(allowed)}"
    elif kind == "missing":
        text = "is missing"
    elif kind == "union_tag_invalid":
        allowed = sorted(re.findall(r"'([^']*)'", context["expected_tags"]))
        tag_path = (*path, context["discriminator"].strip("'"))
        tag = words.get(tag_path, (str(context["tag"]),))[0]
        text = f"nothing here is called {short(tag)}{did_you_mean(tag, allowed)}{_list(allowed)}"
    elif kind == "union_tag_not_found":
        text = f"{short(error['input'])} does not say which one: give a name, or a mapping with one"
    elif kind == "value_error":
        text = str(context["error"])
        path = _as_given((*path, *getattr(context["error"], "path", ())), value)
    elif kind == "string_pattern_mismatch" and context["pattern"] == NAME:
        text = f"{short(error['input'])} is not a name: letters, digits and _ . + -, at most 64, "
        text += "beginning with a letter or digit"
        if re.match(IMPORT_PATH, error["input"]):
            label = error["input"].rpartition(":")[2]
            text = f"an import path needs a label: {label}: {{method: {short(error['input'])}}}"
    else:
        given = f"{short(error['input'])} is not allowed"
        if kind == "literal_error":
            allowed = re.findall(r"'([^']*)'", context["expected"])
            text = f"{did_you_mean(str(error['input']), allowed)}{_list(allowed)}"
        else:
            text = f": {_plain_words(error['msg'])}"
    if kind in TEXT_WANTED and words.get(path, ("", ""))[0]:
        word, read = words[path]
        given = given.replace(short(error["input"]), one_line(word, limit=40), 1)
        if kind != "literal_error" or word in allowed:
            text += f"; {in_quotes(word, read)}"
    key = short_key(path)
    touched = any(path and _begins(path, other) for other in overridden)
    if touched:
        return f"-o {key}", given, text
    line = line_of(path, lines)
    where = f"{source}:{line}" if line else source
    return f"{where}: {key}" if key else where, given, text


def _as_given(path: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    """The path in the file, where a single method may stand in the short form, without a label."""
    if path[:1] == ("methods",) and isinstance(value, dict) and "methods" not in value:
        return ("method", *path[2:])
    return path


def in_quotes(word: str, read: str) -> str:
    """What to do about a plain ``word`` that YAML reads as something else than text."""
    if not word:
        return "is empty"
    word = one_line(word, limit=64)
    return f"YAML reads {word} as {read}; put it in quotes: '{word}'"


def _begins(one: Path, other: Path) -> bool:
    """Whether one of the paths leads to or into the other."""
    length = min(len(one), len(other))
    return tuple(map(str, one[:length])) == tuple(map(str, other[:length]))


def _list(allowed: Sequence[str]) -> str:
    return f"; allowed: {', '.join(allowed)}" if allowed else ""


def _plain_words(text: str) -> str:
    """What pydantic says, without words that only programmers know."""
    text = re.sub(r"valid dictionary or object.*", "name, or a mapping of keys", text)
    text = re.sub(r"valid dictionary( or instance.*)?", "mapping of keys", text)
    text = re.sub(r"is not a valid path for .*", "should be a path", text)
    text = re.sub(r"^(List|Dictionary) (should .*?) after validation, not \d+$", r"it \2", text)
    return re.sub("^Input should", "it should", text[0] + text[1:])


def short_key(path: Path) -> str:
    """A dotted key, fit for one line."""
    parts = (one_line(part, limit=64) for part in path)
    return ".".join(parts)


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


@lru_cache(maxsize=8)
def _schema(model: type[OptionsBase]) -> dict[str, Any]:
    return model.model_json_schema(mode="validation")


def _allowed_keys(model: type[OptionsBase], loc: Sequence[str | int]) -> list[str]:
    """The keys that stand where ``loc``, an unknown key's location in ``model``, is."""
    schema = _schema(model)
    definitions = schema.get("$defs", {})

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
            for inner in option.get("patternProperties", {}).values():
                return inner
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


def line_of(path: Path, lines: Lines) -> int | None:
    """The line of the key, or of the nearest key around it."""
    for length in range(len(path), 0, -1):
        # A key such as 3 is a number in the config, and text among the lines.
        for here in (tuple(path[:length]), tuple(map(str, path[:length]))):
            if here in lines:
                return lines[here]
    return None
