"""Methods, benchmarks, data sets and backbones from other packages.

A config names them as it names ours, if their package has an entry point for them, or by import
path, ``my_package.module:Name``, looked up where Python looks and in the current directory.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar, cast

from lora_cl.errors import ConfigError
from lora_cl.text import did_you_mean, one_line

IMPORT_PATH = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"

Part = TypeVar("Part", bound=type[Any])


class Parts(dict[str, Part]):
    """What a config can name of one kind: ours as a plain dict, and others by ``parts[name]``.

    ``what`` is the kind in words, ``group`` the entry points' group; a part is a class derived
    from ``base`` with its ``Options``.
    """

    def __init__(self, what: str, group: str, base: type[Any], ours: Mapping[str, Part]) -> None:
        super().__init__(ours)
        self.what, self.group, self.base = what, group, base
        self._found: dict[str, Part] = {}

    def __missing__(self, name: str) -> Part:
        """The part of another package. Raises ConfigError, one line, if it is none."""
        if name not in self._found:
            self._found[name] = self._find(name)
        return self._found[name]

    def names(self) -> list[str]:
        """Ours, then those of entry points."""
        return [*self, *(name for name in self._entry_points() if name not in self)]

    def knows(self, name: str) -> bool:
        """Whether ``name`` is one of ``names()`` or has the form of an import path."""
        return name in self or bool(re.match(IMPORT_PATH, name)) or name in self._entry_points()

    def unknown(self, name: str) -> str:
        """What is wrong with a name that is not known, what is allowed, and what is near."""
        allowed = sorted(self.names())
        return (
            f"nothing here is called {name[:40]!r}{did_you_mean(name, allowed)}; "
            f"allowed: {', '.join(allowed)}"
        )

    def others(self) -> dict[str, Part | ConfigError]:
        """The parts of entry points by name, or what is wrong with them."""
        found: dict[str, Part | ConfigError] = {}
        for name, points in self._entry_points().items():
            where = ", ".join(f"{_owner(point)} ({point.value})" for point in points)
            if name in self:
                found[name] = ConfigError(f"{self.what} {name} of {where}: the name is taken")
                continue
            try:
                found[name] = self[name]
            except ConfigError as error:
                found[name] = error
        return found

    def _find(self, name: str) -> Part:
        if re.match(IMPORT_PATH, name):
            return self._imported(name, f"{self.what} {name}")
        points = self._entry_points().get(name, [])
        if not points:
            raise ConfigError(self.unknown(name))
        who = " and ".join(map(_owner, points))
        if len(points) > 1:
            raise ConfigError(f"{self.what} {name}: the name is taken twice, by {who}")
        return self._imported(points[0].value, f"{self.what} {name} of {who}")

    def _imported(self, path: str, who: str) -> Part:
        module_name, _, attribute = path.partition(":")
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.append(here)
        try:
            module = import_module(module_name)
        except Exception as error:
            reason = one_line(f"{type(error).__name__}: {error}")
            raise ConfigError(f"{who}: cannot be imported: {reason}") from None
        part: Any = getattr(module, attribute, None)
        if part is None:
            hint = did_you_mean(attribute, vars(module))
            raise ConfigError(f"{who}: {module_name} has no {attribute}{hint}")
        wanted = f"{self.base.__module__}.{self.base.__name__}"
        if not isinstance(part, type) or not issubclass(part, self.base):
            raise ConfigError(f"{who}: is not a class derived from {wanted}")
        if missing := ", ".join(sorted(getattr(part, "__abstractmethods__", ()))):
            raise ConfigError(f"{who}: lacks {missing}")
        if not hasattr(part, "Options"):
            raise ConfigError(f"{who}: has no Options, the class of what its YAML can hold")
        return cast(Part, part)

    def _entry_points(self) -> dict[str, list[EntryPoint]]:
        found: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=self.group):
            found.setdefault(point.name, []).append(point)
        return found


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


def code_of(part: type[Any]) -> str | None:
    """The sha256 of the source of the package that a class is from; None for one of lora-cl."""
    top = part.__module__.partition(".")[0]
    if top == "lora_cl":
        return None
    file = getattr(sys.modules[top], "__file__", None) or sys.modules[part.__module__].__file__
    if file is None:
        return None
    place = Path(file)
    files = sorted(place.parent.rglob("*.py")) if place.name == "__init__.py" else [place]
    return sources_digest(place.parent, files)


def sources_digest(folder: Path, files: Iterable[Path]) -> str:
    """The sha256 of the names, below ``folder``, and the contents of ``files``."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(folder).as_posix()}\n".encode() + file.read_bytes())
    return digest.hexdigest()
