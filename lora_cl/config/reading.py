"""A config file in YAML becomes a validated experiment."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from lora_cl.config.messages import Lines, Words, in_quotes, messages, short_key
from lora_cl.config.model import short
from lora_cl.config.runs import Experiment
from lora_cl.config.study import FILE_KEYS, ConfigFile, grid
from lora_cl.config.syntax import MAX_DEPTH, Loader, read_as
from lora_cl.errors import ConfigError
from lora_cl.files import open_now
from lora_cl.text import did_you_mean, one_line

MAX_BYTES = 65_536
MAX_NODES = 20_000


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Reads and validates a config file; ``overrides`` are ``KEY=VALUE``, the value in YAML.

    Raises ConfigError, one line for each problem.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise ConfigError(f"{path}: is a directory, not a config file")
        with open_now(path) as file:
            text = file.read(MAX_BYTES + 1).decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}{_near_file(path)}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not a text file in UTF-8") from None
    return parse_config(text, str(path), overrides)


def parse_config(text: str, source: str, overrides: Sequence[str] = ()) -> Experiment:
    """As ``load_config``, from the text of a config; ``source`` names it in messages."""
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{source}: is larger than a config can be ({MAX_BYTES:,} bytes)")
    lines: dict[tuple[str | int, ...], int] = {}
    words: Words = {}
    value = _read_yaml(text, source, lines, words)
    if value is None:
        raise ConfigError(f"{source}: is empty; a config needs name, benchmark and methods")
    if not isinstance(value, dict):
        raise ConfigError(f"{source}:1: a config is a mapping of keys, not {_kind(value)}")
    overridden = [_override(value, text, source, words) for text in overrides]
    file = _validated(value, lines, source, overridden, words)
    plain = {key: item for key, item in value.items() if key not in FILE_KEYS}
    points = []
    for settings in grid(file.sweep):
        changed, at = copy.deepcopy(plain), dict(lines)
        for key, item in settings.items():
            line = lines.get(("sweep", key)) or lines.get(("sweep",), 1)
            where = f"{_at(source, line)}: sweep.{short_key([key])}"
            path = _set(changed, key, item, where, source)
            at = {path[:length]: line for length in range(1, len(path))} | at | {path: line}
        point = _validated(changed, at, source, overridden, words)
        points.append(Experiment(point.config(), source, at))
    return Experiment(file.config(), source, lines, tuple(points), file.tune, file.expect)


def _validated(
    value: dict[Any, Any],
    lines: Lines,
    source: str,
    overridden: Sequence[tuple[str | int, ...]],
    words: Words,
) -> ConfigFile:
    try:
        return ConfigFile.model_validate(value)
    except ValidationError as error:
        found = messages(error.errors(), value, lines, source, overridden, words)
        raise ConfigError(found) from None


def _read_yaml(
    text: str, source: str, lines: dict[tuple[str | int, ...], int], words: Words
) -> Any:
    try:
        loader = Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _walk(node, (), lines, words, source)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = _at(source, mark.line + 1) if mark else source
        raise ConfigError(f"{where}: not valid YAML: {one_line(error.problem)}") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise ConfigError(f"{source}: not valid YAML: {one_line(error)}") from None


def _at(source: str, line: int) -> str:
    """A line of the source, where it has lines."""
    return source if source.startswith("-o ") else f"{source}:{line}"


def _walk(
    root: yaml.Node,
    path: tuple[str | int, ...],
    lines: dict[tuple[str | int, ...], int],
    words: Words,
    source: str,
) -> None:
    """Notes the line of every key, and what a plain word that is no text was read as.

    Refuses keys that are no text or are given twice, endless and exploding aliases.
    """
    waiting: list[tuple[yaml.Node, tuple[str | int, ...]]] = [(root, path)]
    count = 0
    while waiting:
        node, path = waiting.pop()
        count += 1
        if count > MAX_NODES or len(path) > MAX_DEPTH:
            raise ConfigError(f"{source}: is too large, too deeply nested or endless for a config")
        line = node.start_mark.line + 1
        lines.setdefault(path, line)
        if isinstance(node, yaml.ScalarNode) and (read := read_as(node)):
            words[path] = (node.value, read)
        if isinstance(node, yaml.SequenceNode):
            waiting += [(item, (*path, index)) for index, item in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            seen: dict[str, int] = {}
            for key, item in node.value:
                line = key.start_mark.line + 1
                if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":merge"):
                    raise ConfigError(f"{_at(source, line)}: a key should be a plain word")
                if (read := read_as(key)) or key.value in seen:
                    problem = (
                        in_quotes(key.value, read)
                        if read
                        else f"the key is given twice (first in line {seen[key.value]})"
                    )
                    where = f"{_at(source, line)}: {short_key((*path, key.value))}"
                    raise ConfigError(f"{where}: {problem}")
                seen[key.value] = line
                lines[(*path, key.value)] = line
                waiting.append((item, (*path, key.value)))


def _override(
    config: dict[Any, Any], text: str, source: str, words: Words
) -> tuple[str | int, ...]:
    """Sets ``KEY=VALUE`` in ``config`` and ``words``, and returns the key's path."""
    key, equals, raw = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"-o {one_line(text)}: should be KEY=VALUE, such as train.lr=0.01")
    name = f"-o {one_line(text)}"
    own: Words = {}
    value = _read_yaml(raw, name, {}, own)
    if key == "methods" and isinstance(value, list):
        value = _picked(config, value, name, source)
        _forget(config, [label for label in config["methods"] if label not in value])
    path = _set(config, key, value, name, source)
    words |= {(*path, *inner): word for inner, word in own.items()}
    return path


def _set(
    config: dict[Any, Any], key: str, value: Any, name: str, source: str
) -> tuple[str | int, ...]:
    """Sets a dotted ``key`` of ``config`` and returns its path; ``name`` is what asks for it.

    Raises ConfigError for a key within something that is no mapping.
    """
    path: list[str] = []
    target, rest = config, key
    while True:
        known = [k for k in target if isinstance(k, str) and rest.startswith(f"{k}.")]
        word = max(known, key=len) if known else rest.partition(".")[0]
        path.append(word)
        if rest == word or rest in target:
            path[-1] = rest
            target[rest] = value
            return tuple(path)
        rest = rest[len(word) + 1 :]
        inner = target.get(word)
        if inner is None:
            inner = target[word] = {}
        elif isinstance(inner, str):
            inner = target[word] = {"name": inner}
        elif not isinstance(inner, dict):
            raise ConfigError(f"{name}: {short_key(path)} is not a mapping in {source}")
        target = inner


def _picked(config: dict[Any, Any], labels: list[Any], name: str, source: str) -> dict[Any, Any]:
    """The methods of the config whose labels are listed, with their options, in its order."""
    known = config.get("methods")
    if not isinstance(known, dict):
        raise ConfigError(f"{name}: {source} has no methods to pick from")
    for label in labels:
        if not isinstance(label, str) or label not in known:
            hint = did_you_mean(str(label), map(str, known))
            there = ", ".join(map(str, known))
            raise ConfigError(f"{name}: no label is {short(label)}{hint}; there are {there}")
    return {label: options for label, options in known.items() if label in labels}


def _forget(config: dict[Any, Any], labels: list[Any]) -> None:
    """Takes out what the rest of the file says of methods that were not picked."""

    def without(part: Any, name: str, left_out: Callable[[Any], bool]) -> None:
        found = part.get(name) if isinstance(part, dict) else None
        if isinstance(found, dict):
            part[name] = {key: item for key, item in found.items() if not left_out(key)}
        elif isinstance(found, list):
            part[name] = [item for item in found if not left_out(item)]
        if found and not part[name]:
            del part[name]

    def of_one(key: Any) -> bool:
        return any(str(key).startswith(f"methods.{label}.") for label in labels)

    without(config, "sweep", of_one)
    without(config.get("tune"), "space", of_one)
    without(config.get("expect"), "cells", labels.__contains__)
    without(config.get("expect"), "quick", labels.__contains__)
    if isinstance(config.get("expect"), dict) and "cells" not in config["expect"]:
        del config["expect"]


def _near_file(path: Path) -> str:
    siblings = [file.name for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    return did_you_mean(path.name, siblings)


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "a list"
    return "text" if isinstance(value, str) else short(value)
