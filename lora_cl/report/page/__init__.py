"""The report of many runs as one page: no script, and nothing that is elsewhere.

Needs the extra ``report``.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from typing import Any

from lora_cl.errors import ConfigError
from lora_cl.report.aggregate import Comparison
from lora_cl.report.columns import COLUMNS
from lora_cl.report.explained import MATRIX, MEANINGS, STATISTICS
from lora_cl.report.figures import require_matplotlib
from lora_cl.report.page.sections import Section, section

__all__ = ["Section", "report_html"]

TEMPLATE = "report.html.j2"
MISSING = "reports need jinja2: pip install 'lora-cl[report]'"


def report_html(
    found: Sequence[Comparison], command: str, version: str, notices: Sequence[str] = ()
) -> str:
    """The comparisons as an HTML page: the same text whenever the same runs are given.

    ``command`` and ``version`` are of what it was made by, ``notices`` name places that were not
    looked into. Raises ConfigError where matplotlib or jinja2 is missing.
    """
    require_matplotlib()
    template = _template()
    page: str = template.render(
        sections=[section(one, number) for number, one in enumerate(found, start=1)],
        meanings=[(COLUMNS[name].header, meaning) for name, meaning in MEANINGS.items()],
        matrix=MATRIX,
        statistics=STATISTICS,
        command=command,
        notices=list(notices),
        version=version,
    )
    return page


def _template() -> Any:
    try:
        from jinja2 import Environment, StrictUndefined
    except ModuleNotFoundError:
        raise ConfigError(MISSING) from None
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    text = resources.files(__package__).joinpath(TEMPLATE).read_text("utf-8")
    return environment.from_string(text)
