"""The streams people read: characters that one lacks, and readers who do not read."""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
from typing import Any, TextIO

PATIENCE = 1.0
"""Seconds that a reader of stderr may keep us waiting; then it misses lines until it reads."""

PLAIN = {"±": "+-", "−": "-", "─": "-", "·": "-", "…": "...", "†": "+", "‡": "#"}
PLAIN |= {"↑": "^", "↓": "v", "━": "-", "╸": "-", "╺": "-"}
PLAIN |= dict(zip("▁▂▃▄▅▆▇█", "1234567#", strict=True)) | dict(
    zip("▏▎▍▌▋▊▉", "   ####", strict=True)
)


def _in_plain(error: UnicodeError) -> tuple[str, int]:
    """Look-alikes in ASCII, one as wide as the other where that can be, so that tables stand."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text, end = error.object, error.end
    plain = "".join(PLAIN.get(character, "?") for character in text[error.start : end])
    if plain.endswith("+-") and text[end : end + 1] == " ":
        end += 1
    return plain, end


PLAINLY = "lora_cl.plain"
codecs.register_error(PLAINLY, _in_plain)


def plain_where_needed(stream: Any) -> None:
    """What the encoding of ``stream`` lacks is written in ASCII from now on, not refused."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=PLAINLY)


class _Patient(io.RawIOBase):
    """Writes what a descriptor takes in time, drops the rest, and never fails.

    Once a reader has kept us waiting, the next lines wait no more; one tells how many it missed.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.missed = 0

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.descriptor

    def isatty(self) -> bool:
        return os.isatty(self.descriptor)

    def write(self, data: Any) -> int:
        content = bytes(data)
        if self.missed and self._send(f"[nobody read; {self.missed} lines are lost]\n".encode(), 0):
            self.missed = 0
        if self.missed or not self._send(content, PATIENCE):
            self.missed += content.count(b"\n")
        return len(content)

    def _send(self, content: bytes, patience: float) -> bool:
        """Whether the reader took it; one who is gone has."""
        # A pipe that takes anything takes this much without waiting.
        for start in range(0, len(content), select.PIPE_BUF):
            try:
                if not select.select([], [self.descriptor], [], patience)[1]:
                    return False
                os.write(self.descriptor, content[start : start + select.PIPE_BUF])
            except BlockingIOError:
                return False
            except (OSError, ValueError):
                return True
        return True


def patient(stream: TextIO | None) -> TextIO | None:
    """``stream`` so that no write to it waits long or fails, if it is this process's stderr.

    Where something else stands in for it, such as a notebook's, that is left as it is.
    """
    original = sys.__stderr__
    if original is None or stream is not original or os.name != "posix":
        return stream
    return io.TextIOWrapper(
        _Patient(original.fileno()),  # type: ignore[type-var]
        encoding=original.encoding,
        errors=PLAINLY,
        write_through=True,
    )


def occupy_standard_descriptors() -> None:
    """Opens /dev/null where stdin, stdout or stderr is closed, so that no file of ours gets it."""
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            return
        os.set_inheritable(descriptor, True)
