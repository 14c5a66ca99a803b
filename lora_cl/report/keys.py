"""Configs by dotted key: what a run was made of, where runs differ, and how a key may be named."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from lora_cl.errors import ConfigError
from lora_cl.text import NOTHING, did_you_mean, one_line

Options: TypeAlias = Mapping[str, Any]

FACTS = ("experiment", "label", "method", "scenario", "benchmark", "seed", "status", "config_hash")
"""What can be asked of every run besides its options."""

CONFIG, CONTENT = "config.", "content."
"""Before the names of what makes a result: options, and code, data and versions."""

CHANGES_NO_RESULT = ("checkpoint_seconds", "compile", "stream", "resources", "path", "weights")
"""Parts of the keys that say where or how fast a run happens; they are in no hash."""


def options_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved config of a run, leaf by leaf, as ``{"train.lr": 0.001, ...}``.

    A part goes by its place, ``model: mlp`` or ``benchmark.dataset: mnist``, and the method's
    options are under ``method`` whatever its label. Experiment, label and seed are not among them.
    """
    found: dict[str, Any] = {}
    for key, value in config.items():
        if key == "methods":
            found |= _leaves("method", _only_method(value))
        elif key not in ("name", "seeds"):
            found |= _leaves(key, value)
    return found


def _only_method(methods: Any) -> dict[str, Any]:
    values = list(methods.values()) if isinstance(methods, dict) else []
    options = values[0] if len(values) == 1 and isinstance(values[0], dict) else {}
    return {"name" if key == "method" else key: value for key, value in options.items()}


def _leaves(key: str, value: Any) -> dict[str, Any]:
    inner: Iterator[tuple[Any, Any]]
    if isinstance(value, dict):
        inner = iter(value.items())
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        inner = iter(enumerate(value))
    else:
        return {key: value}
    found: dict[str, Any] = {}
    for part, item in inner:
        found |= _leaves(key if part == "name" else f"{key}.{part}", item)
    return found


def makes_result(options: Options) -> dict[str, Any]:
    """The options that a result depends on."""
    return {k: v for k, v in options.items() if not {*k.split(".")} & {*CHANGES_NO_RESULT}}


def frozen(options: Options) -> tuple[tuple[str, str], ...]:
    """Options as something to compare and to group by."""
    return tuple((key, json.dumps(value)) for key, value in sorted(options.items()))


def shown(value: Any) -> str:
    """A value as it would stand in a config; ``-`` for null."""
    if value is None:
        return NOTHING
    return one_line(value if isinstance(value, str) else json.dumps(value), limit=40)


def short_checksum(text: str) -> str:
    """The first eight digits of a checksum; other text as it is."""
    plain = text.removeprefix("sha256:")
    return plain[:8] if re.fullmatch("[0-9a-f]{16,}", plain) else one_line(text, limit=40)


def content_name(key: str) -> str:
    """What part of a run's content is called: the benchmark's data are ``data``."""
    return re.sub(r"^benchmark\.datasets?\b", "data", key)


def short_name(key: str, among: Collection[str]) -> str:
    """The shortest end of a dotted key that means it ``among`` others, and no fact."""
    parts = key.split(".")
    for begin in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[begin:])
        if name not in FACTS and ending_in(name, among) == [key]:
            return name
    return key


def resolve(option: str, name: str, keys: Collection[str]) -> str:
    """The one of ``keys`` that is meant: a whole key, or the end of one.

    ``rank`` is ``method.rank`` before ``method.adapter.rank``: of several, the one least deep.

    Raises ConfigError, in which ``option`` is named, with the nearest match.
    """
    plain = name.removeprefix(CONFIG).removesuffix(".name")
    for whole in (plain, f"{CONTENT}{plain}"):
        if whole in keys:
            return whole
    found = ending_in(plain, keys)
    found += [k for k in keys if k.startswith(CONTENT) and content_name(k[len(CONTENT) :]) == plain]
    if len(found) == 1:
        return found[0]
    told = f"{option} {one_line(name, limit=60)}"
    if found:
        raise ConfigError(f"{told}: could be {' or '.join(found)}; say which")
    known = dict.fromkeys([*keys, *(short_name(key, keys) for key in keys)])
    raise ConfigError(f"{told}: nothing here is called so{did_you_mean(plain, known)}")


def ending_in(name: str, keys: Collection[str]) -> list[str]:
    """The keys that are ``name`` or end in it, at a dot; of these the least deep."""
    found = [key for key in keys if key == name or key.endswith(f".{name}")]
    least = min((key.count(".") for key in found), default=0)
    return [key for key in found if key.count(".") == least]


class Difference:
    """In which options, and in what other content, several configs differ.

    ``told`` says of each, in order, its own values: ``["rank=4", "lr=0.01"]``. Empty lists for
    configs that are not known to differ. A key is named by an end that means it ``among`` others.
    """

    def __init__(
        self,
        options: Sequence[Options],
        contents: Sequence[Mapping[str, str]],
        among: Collection[str],
        prefix: str = "",
    ) -> None:
        """Only keys that begin with ``prefix`` are looked at."""
        every = list(dict.fromkeys(key for one in options for key in one))
        every.sort(key=lambda key: not _lies_in(key, "method"))  # The method's own come first.
        keys = [key for key in every if key.startswith(prefix) and _differs(key, options)]
        parts = list(dict.fromkeys(key for one in contents for key in one))
        parts = [key for key in parts if key.startswith(prefix) and _differs(key, contents)]
        self.keys = [
            key
            for key in keys
            if not _follows(key, keys, options)
            # A path differs where it leads to something else.
            and (makes_result({key: 0}) or any(_lies_in(key, part) for part in parts))
        ]
        self.parts = [part for part in parts if not any(_lies_in(k, part) for k in self.keys)]
        names = {key: short_name(key, among) for key in self.keys}
        self.values = [
            [one.get(key) for key in self.keys] + [content.get(part) for part in self.parts]
            for one, content in zip(options, contents, strict=True)
        ]
        self.told = [
            [
                f"{names[key]}={_shown_option(key, one.get(key))}"
                for key in self.keys
                if key in one or (one and not _parents(key, self.keys))
            ]
            + [
                f"{content_name(part)}={short_checksum(content.get(part, NOTHING))}"
                for part in self.parts
                if content
            ]
            for one, content in zip(options, contents, strict=True)
        ]

    def place(self, index: int) -> tuple[tuple[int, float, str], ...]:
        """Where configuration ``index`` stands among the others: numbers by size, then text."""
        return tuple(map(by_size, self.values[index]))


def by_size(value: Any) -> tuple[int, float, str]:
    """A key to sort values by: nothing, numbers by size, then text."""
    if value is None:
        return (0, 0.0, "")
    if isinstance(value, int | float):
        return (1, float(value), "")
    return (2, 0.0, shown(value))


def _differs(key: str, among: Sequence[Mapping[str, Any]]) -> bool:
    """Whether those of which anything is known have it otherwise; to lack it is to have null."""
    return len({json.dumps(one.get(key)) for one in among if one}) > 1


def _follows(key: str, keys: Sequence[str], options: Sequence[Options]) -> bool:
    """Whether it differs only because parts that do not have it are in its part's place."""
    have = [one for one in options if key in one]
    return bool(_parents(key, keys)) and len(have) < len(options) and not _differs(key, have)


def _parents(key: str, keys: Sequence[str]) -> list[str]:
    return [other for other in keys if key.startswith(f"{other}.")]


def _shown_option(key: str, value: Any) -> str:
    """A value of the option; of a path the end, where files are told apart."""
    text = shown(value)
    whole = one_line(value)
    is_path = isinstance(value, str) and not makes_result({key: value})
    return f"…{whole[-39:]}" if is_path and text != whole else text


def _lies_in(key: str, part: str) -> bool:
    return key == part or key.startswith(f"{part}.")
