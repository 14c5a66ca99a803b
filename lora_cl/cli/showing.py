"""The commands that show: a page of finished runs, pictures of them, and what is under way."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from lora_cl.cli.answering import RUN_FAILED, answering, say
from lora_cl.cli.places import Folders, deliver, places
from lora_cl.errors import ResultsError

Methods = Annotated[
    list[str], typer.Option(metavar="LABEL,...", help="Only these; * stands for anything.")
]
Where = Annotated[
    list[str], typer.Option(metavar="KEY=VALUE", help="Only such runs, as rank=4 or seed=0.")
]


def report(
    folders: Folders = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The page.")] = Path("report.html"),
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Every plot as PDF, SVG and PNG as well.")
    ] = None,
    methods: Methods = [],  # noqa: B006
    where: Where = [],  # noqa: B006
    sort: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The best first; the last, with - before.")
    ] = None,
) -> None:
    """Write one HTML page of finished runs: tables, plots, protocol and what the columns mean.

    It needs no network and no script. Exit code 1 if no run in it is done.
    """
    with answering():
        from lora_cl import __version__
        from lora_cl.report import Selection, comparisons, measured
        from lora_cl.report.figures import write_figures
        from lora_cl.report.page import report_html

        notices: list[str] = []
        found = comparisons(places(folders), Selection(methods, where, sort), notices.append)
        for notice in notices:
            say(notice)
        named = shlex.join(["lora-cl", "report", *map(str, folders or [])])
        deliver(report_html(found, named, __version__, notices), output)
        if figures is not None:
            try:
                plots = write_figures(found, figures)
            except OSError as error:
                raise ResultsError(f"{figures}: cannot be written: {error.strerror}") from None
            say(f"{plots} plots written to {figures}")
    if not measured(found):
        raise typer.Exit(RUN_FAILED)
