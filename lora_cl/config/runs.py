"""The runs that a config asks for, and the hash of all that makes the result of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_cl.config.expected import ExpectOptions
from lora_cl.config.messages import line_of
from lora_cl.config.model import Config
from lora_cl.config.study import TuneOptions
from lora_cl.config.syntax import to_yaml
from lora_cl.config.train import Overrides, OwnTrain, differing, merged
from lora_cl.errors import ConfigError
from lora_cl.options import OptionsBase


@dataclass(frozen=True)
class Experiment:
    """A validated config, and where each of its keys stands in the file it came from.

    With a `sweep`, ``swept`` are the configs that it makes of this one, as experiments; ``tune``
    is how the file wants to be tuned, ``expect`` what was published for it, if it says so.
    """

    config: Config
    source: str
    lines: Mapping[tuple[str | int, ...], int]
    swept: tuple[Experiment, ...] = ()
    tune: TuneOptions | None = None
    expect: ExpectOptions | None = None

    @property
    def points(self) -> tuple[Experiment, ...]:
        """The experiments of one config each: those of the sweep, or this one."""
        return self.swept or (self,)

    def error(self, message: str, key: str | None) -> ConfigError:
        """A ConfigError that names the file, and the line and key where it has one."""
        path = tuple(key.split(".")) if key else ()
        line = line_of(path, self.lines)
        where = f"{self.source}:{line}" if line else self.source
        return ConfigError(f"{where}: {key + ': ' if key else ''}{message}", key=key)

    def runs(self, content: Mapping[str, str]) -> list[RunConfig]:
        """One per method and seed: the methods of the first seed first. Without what is swept.

        ``content`` says what besides the config makes a result: checksums of the data, of weights
        and of the code, by what they are of. What is under ``methods.LABEL.`` is of that method.
        """
        return [
            RunConfig.of(self.config, label, seed, content)
            for seed in self.config.seeds
            for label in self.config.methods
        ]


@dataclass(frozen=True)
class RunConfig:
    """One run: a config of one method and one seed, with every default written out.

    ``run_hash`` is the sha256 of all that makes its result: ``resolved`` without the names of
    experiment and method, without paths and what cannot change a number; and ``content``.
    ``config_hash`` is the same without the seed. ``position`` is the method's place in the config.
    """

    resolved: dict[str, Any]
    content: dict[str, str]
    position: int
    config_hash: str
    run_hash: str

    @classmethod
    def of(cls, config: Config, label: str, seed: int, content: Mapping[str, str]) -> RunConfig:
        one = of_one_method(config, label).model_copy(update={"seeds": [seed]})
        options = one.methods[label]
        own = _of_method(content, label)
        made_of = {**_hashed(one), "name": None, "methods": _hashed(options), "content": own}
        return cls(
            resolved=one.model_dump(mode="json"),
            content=own,
            position=list(config.methods).index(label),
            config_hash=_hash({**made_of, "seeds": None}),
            run_hash=_hash(made_of),
        )

    @property
    def experiment(self) -> str:
        return str(self.resolved["name"])

    @property
    def label(self) -> str:
        return str(next(iter(self.resolved["methods"])))

    @property
    def seed(self) -> int:
        return int(self.resolved["seeds"][0])

    @property
    def folder(self) -> Path:
        """The run's folder, below the results directory."""
        return Path(self.experiment, self.label, self.folder_name)

    @property
    def folder_name(self) -> str:
        return f"seed{self.seed}-{self.run_hash[:8]}"

    def parse(self) -> Config:
        return Config.model_validate(self.resolved)

    def to_yaml(self) -> str:
        return to_yaml(self.resolved)


def of_one_method(config: Config, label: str) -> Config:
    """The config of one of its methods alone: `train` is that method's, and says all.

    The base stays that of all methods: what `train` was for them, and no longer is, goes to
    `base.pretrain.train`. Configs that train alike become the same, wherever that was said.
    """
    options = config.methods[label]
    train, base = merged(config.train, options.train), config.base
    if base.pretrain is not None:
        own = differing(config.pretraining(), train)
        pretrain = base.pretrain.model_copy(update={"train": own})
        base = base.model_copy(update={"pretrain": pretrain})
    methods = {label: options.model_copy(update={"train": OwnTrain()})}
    return config.model_copy(update={"methods": methods, "train": train, "base": base})


def _of_method(content: Mapping[str, str], label: str) -> dict[str, str]:
    """``content`` without what is of other methods; what is of this one goes by ``method.``."""
    own = f"methods.{label}."
    return {
        f"method.{key.removeprefix(own)}" if key.startswith(own) else key: value
        for key, value in content.items()
        if key.startswith(own) or not key.startswith("methods.")
    }


def _hashed(value: Any) -> Any:
    """What the hash is taken of: options without the fields marked ``hashed: False``."""
    if isinstance(value, Overrides):
        return value.given()
    if isinstance(value, OptionsBase):
        return {
            name: _hashed(value.hashed_as(name))
            for name, field in type(value).model_fields.items()
            if not (
                isinstance(field.json_schema_extra, dict)
                and field.json_schema_extra.get("hashed") is False
            )
        }
    if isinstance(value, dict):
        return {key: _hashed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_hashed(item) for item in value]
    return value


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
