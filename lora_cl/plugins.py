"""Methods, benchmarks, data sets and backbones from other packages.

A config names them as it names ours, if their package has an entry point for them, or by import
path, ``my_package.module:Name``, looked up where Python looks and in the current directory.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import cache
from importlib import import_module, invalidate_caches
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES
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
    from ``base``, with its ``Options`` derived from ``options``, none of them called ``key`` or as
    one of ``taken``, which says what those are, and what is said of it in the class attributes
    ``texts``.
    """

    def __init__(
        self,
        what: str,
        group: str,
        base: type[Any],
        options: type[Any],
        ours: Mapping[str, Part],
        *,
        key: str = "name",
        texts: Sequence[str] = ("summary",),
        taken: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(ours)
        self.what, self.group, self.base, self.options = what, group, base, options
        self.key, self.texts = key, texts
        self.taken = {key: "that names the part", **(taken or {})}
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
        _look_here()
        try:
            with redirect_stdout(sys.stderr):  # What it prints is no part of a command's output.
                module = import_module(module_name)
            part: Any = getattr(module, attribute, None)
        except (Exception, SystemExit) as error:
            reason = one_line(f"{type(error).__name__}: {error}")
            raise ConfigError(f"{who}: cannot be imported: {reason}") from None
        if part is None:
            hint = did_you_mean(attribute, vars(module))
            raise ConfigError(f"{who}: {module_name} has no {attribute}{hint}")
        wanted = f"{self.base.__module__}.{self.base.__name__}"
        if not isinstance(part, type) or not issubclass(part, self.base):
            raise ConfigError(f"{who}: is not a class derived from {wanted}")
        if missing := ", ".join(sorted(getattr(part, "__abstractmethods__", ()))):
            raise ConfigError(f"{who}: lacks {missing}")
        for text in self.texts:
            if not isinstance(getattr(part, text, None), str):
                raise ConfigError(f"{who}: has no text as its class attribute {text}")
        self._check_options(getattr(part, "Options", None), who)
        return cast(Part, part)

    def _check_options(self, options: Any, who: str) -> None:
        wanted = f"{self.options.__module__}.{self.options.__name__}"
        if not isinstance(options, type) or not issubclass(options, self.options):
            raise ConfigError(f"{who}: has no Options derived from {wanted}")
        for key, meaning in self.taken.items():
            if key in cast(Any, options).model_fields:
                raise ConfigError(f"{who}: an option cannot be called {key}: {meaning}")
        try:
            cast(Any, options).model_json_schema()
        except Exception as error:
            reason = one_line(f"{type(error).__name__}: {error}")
            raise ConfigError(f"{who}: its Options have no JSON Schema: {reason}") from None

    def _entry_points(self) -> dict[str, list[EntryPoint]]:
        found: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=self.group):
            found.setdefault(point.name, []).append(point)
        return found


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


def _look_here() -> None:
    """The current directory becomes the last place where Python looks, in workers too."""
    try:
        here = os.getcwd()  # noqa: PTH109
    except FileNotFoundError:  # It is deleted, and nothing is in it.
        return
    if here not in sys.path:
        sys.path.append(here)
    invalidate_caches()  # A file may be younger than the last look at its folder.


def code_of(part: type[Any]) -> str | None:
    """The sha256 of the code that a class is from; None if that is lora-cl's alone.

    It is that of every module in the top-level packages of the class and of those it derives
    from, but for Python's, torch's and ours. Read once, as modules are. Raises ConfigError for
    code that lies in no file.
    """
    known = {"lora_cl", "torch", *sys.stdlib_module_names}
    tops = {base.__module__.partition(".")[0] for base in part.__mro__} - known
    found = [_code_below(top) for top in sorted(tops)]
    return hashlib.sha256("".join(found).encode()).hexdigest() if found else None


@cache
def _code_below(top: str) -> str:
    """The checksums of the modules of a top-level package, folder by folder, or of a module."""
    module = sys.modules[top]
    suffixes = (*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES)
    found = []
    for folder in map(Path, getattr(module, "__path__", [])):
        modules = [file for file in folder.rglob("*") if file.suffix in suffixes]
        found.append((folder, sorted(file for file in modules if file.is_file())))
    file = Path(getattr(module, "__file__", None) or "")
    if not found and file.is_file():
        found = [(file.parent, [file])]
    if not any(files for _, files in found):
        raise ConfigError(f"{top}: lies in no file, so that nothing tells when its code changes")
    return "".join(sorted(sources_digest(folder, files) for folder, files in found))


def sources_digest(folder: Path, files: Iterable[Path]) -> str:
    """The sha256 of the names, below ``folder``, and the contents of ``files``."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(folder).as_posix()}\n".encode() + file.read_bytes())
    return digest.hexdigest()
