"""How every plot looks, and how it becomes bytes: SVG, PDF or PNG."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_cl.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("pdf", "svg", "png")
MISSING = "plots need matplotlib: pip install 'lora-cl[report]'"

WIDTH = 3.35
"""Inches: a column of a two-column paper."""

INK, PAGE, RULE, FAINT = "#1a1b1c", "#fefefd", "#dcdddb", "#8a8b8c"
"""Of text and axes, of what lies behind, of grids, and of what stands back. No other thing has
these colors, so that a page can put its own in their place."""

SERIES = (
    "#3b82d6", "#dd7230", "#2fa37a", "#b9539a", "#8268d0", "#a8872a", "#3fa3bd", "#cf4f4f",
)  # fmt: skip
"""Told apart on white and on black, and by most who see few colors."""

NAMED_COLORS = {INK: "currentColor", PAGE: "var(--page)", RULE: "var(--rule)", FAINT: "var(--dim)"}

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 7.5,
    "axes.titlesize": 8,
    "text.parse_math": False,
    "axes.unicode_minus": True,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "legend.frameon": False,
    "figure.dpi": 200,
    "path.simplify": False,
}
_METADATA: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


@dataclass(frozen=True)
class Plot:
    """A plot that ``draw`` makes: ``name`` is that of its file, ``caption`` what stands below it.

    ``what`` it shows, and of which row, if it is of one; text is plain, and labels are as they are.
    """

    name: str
    what: str
    caption: str
    draw: Callable[[], Figure]
    label: str = ""

    @property
    def title(self) -> str:
        return f"{self.label}: {self.what.lower()}" if self.label else self.what


def require_matplotlib() -> None:
    """Raises ConfigError, which says what to install, if it is not there."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise ConfigError(MISSING) from None


def new_figure(height: float, left: float = 0.48, below: float = 0.4) -> tuple[Figure, Axes]:
    """A figure at the width of a column, with axes of that height; all in inches.

    ``left`` and ``below`` are the margins. matplotlib's layout engines find them too, and draw
    everything three times.
    """
    from matplotlib.figure import Figure

    above, right = 0.08, 0.1
    whole = above + height + below
    figure = Figure(figsize=(WIDTH, whole))
    width = WIDTH - left - right
    return figure, figure.add_axes((left / WIDTH, below / whole, width / WIDTH, height / whole))


def rendered(plot: Plot, format: str) -> bytes:  # noqa: A002
    """The plot as a file of one of FORMATS: the same bytes whenever it is drawn."""
    out = io.BytesIO()
    with _styled(plot.name):
        plot.draw().savefig(out, format=format, metadata=_METADATA[format], dpi=300)
    return out.getvalue()


def inline_svg(plot: Plot) -> str:
    """The plot as an element for an HTML page, whose colors it takes; as wide as there is room."""
    text = rendered(plot, "svg").decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[a-z0-9]+_[0-9]+"', "", text)
    for color, name in NAMED_COLORS.items():
        text = text.replace(color, name)
    view = re.search(r'viewBox="[0-9. ]+"', text)
    assert view is not None
    head = f'<svg {view[0]} xmlns:xlink="http://www.w3.org/1999/xlink" aria-hidden="true">'
    return head + text[text.index(">") + 1 :].strip()


@contextmanager
def _styled(salt: str) -> Iterator[None]:
    """matplotlib as it is by default, in our style, whatever a person's own settings are."""
    from matplotlib import style

    with warnings.catch_warnings(), style.context(["default", {**_STYLE, "svg.hashsalt": salt}]):
        # A browser has the letters that the font here has not.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        yield
