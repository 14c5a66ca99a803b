"""Numbers and foreign text made fit for people: units, one line, no control characters."""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Sequence

NOTHING = "-"


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """The nearest of the ``known`` words as a hint to append, or nothing where none is near.

    ``cutoff`` in [0, 1] is how alike they must be.
    """
    near = difflib.get_close_matches(word[:100], list(known), n=1, cutoff=cutoff)
    return f" (did you mean {near[0]!r}?)" if near else ""


def matching(pattern: str, known: Iterable[str]) -> list[str]:
    """The ``known`` words that are ``pattern``, or fit it, where it has ``*``, ``?`` or ``[``."""
    return [word for word in known if word == pattern or fnmatch.fnmatchcase(word, pattern)]


def one_line(value: object, limit: int = 200) -> str:
    """Text from a record as one line that cannot steer a terminal, at most ``limit`` characters.

    Control, bidirectional-override and unpaired surrogate characters become U+FFFD.
    """
    text = " ".join(str(value).split())
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def aligned(rows: Sequence[Sequence[str]], left: Sequence[int] = ()) -> str:
    """Cells in columns, two spaces between them: to the right, those of the columns ``left`` to the
    left. Text from a record is made fit for a terminal."""
    cells = [[one_line(cell, 120) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join(lines)


def short_label(label: str, limit: int = 26) -> str:
    """The label in a line, its middle left out where it is long: both ends tell it from others."""
    text = one_line(label)
    if len(text) <= limit:
        return text
    end = (limit - 1) // 2
    return f"{text[: limit - 1 - end]}…{text[-end:]}"


def percent(fraction: float) -> str:
    """A fraction as a percentage with two decimals, without the sign: 0.98765 -> 98.77."""
    return re.sub(r"^-(0\.0+)$", r"\1", f"{100 * fraction:.2f}")


def count(number: float) -> str:
    """A number of parameters in three digits: 1234567 -> 1.23M."""
    return _scaled(number, ("", "k", "M", "G", "T"))


def size(number: float) -> str:
    """A number of bytes in decimal units, three digits: 1234567 -> 1.23 MB."""
    return _scaled(number, (" B", " kB", " MB", " GB", " TB"))


def duration(seconds: float) -> str:
    """Seconds for people: 3.21 s, 42.1 s, 4m 10s, 2h 05m."""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def seconds_of(text: str) -> float | None:
    """The seconds of ``3h55m``, ``90s``, ``1h 30m`` or ``45`` (seconds); None if it is none."""
    match = re.fullmatch(r"(?:(\d+)h)?\s*(?:(\d+)m)?\s*(?:(\d+)s?)?", text.strip(), re.ASCII)
    if not match or not any(match.groups()) or len(text) > 40:
        return None
    hours, minutes, seconds = (int(number or 0) for number in match.groups())
    return 3600.0 * hours + 60.0 * minutes + seconds


def _scaled(number: float, units: tuple[str, ...]) -> str:
    unit = 0
    while number >= 999.5 and unit < len(units) - 1:
        number, unit = number / 1000, unit + 1
    if number >= 99.95 or (unit == 0 and number == int(number)):
        return f"{number:.0f}{units[unit]}"
    return f"{number:.1f}{units[unit]}" if number >= 9.995 else f"{number:.2f}{units[unit]}"
