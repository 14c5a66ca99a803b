"""The commands that show: a page of finished runs, pictures of them, and what is under way."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_cl.cli.answering import RUN_FAILED, answering, say, tell
from lora_cl.cli.places import Folders, deliver, places, terminal
from lora_cl.errors import ResultsError

if TYPE_CHECKING:
    from lora_cl.report.status import Standing

REDRAW_SECONDS = 1.0
CLEARED = "\x1b[H\x1b[2J"

Methods = Annotated[
    list[str], typer.Option(metavar="LABEL,...", help="Only these; * stands for anything.")
]
Where = Annotated[
    list[str], typer.Option(metavar="KEY=VALUE", help="Only such runs, as rank=4 or seed=0.")
]
Sort = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="The best first; the last, with - before.")
]
Watch = Annotated[
    bool, typer.Option("--watch", help="Follow what is under way until nothing is any more.")
]


def report(
    folders: Folders = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The page.")] = Path("report.html"),
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Every plot as PDF, SVG and PNG as well.")
    ] = None,
    methods: Methods = [],  # noqa: B006
    where: Where = [],  # noqa: B006
    sort: Sort = None,
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


def show(
    folders: Folders = None,
    methods: Methods = [],  # noqa: B006
    where: Where = [],  # noqa: B006
    sort: Sort = None,
    watch: Watch = False,
) -> None:
    """Show runs as pictures in the terminal: accuracies, costs, and what is forgotten.

    Of one run folder, its accuracy matrix and every task along the way.
    """
    with answering():
        from lora_cl.records.folders import is_run
        from lora_cl.report import Selection
        from lora_cl.report.aggregate import compared
        from lora_cl.report.showing import show_comparisons, show_run
        from lora_cl.report.status import OPEN, status_text

        at, selection = places(folders), Selection(methods, where, sort)

        def view(found: list[Standing]) -> str:
            width, color = terminal()
            if len(at) == 1 and is_run(at[0]):
                return show_run(found[0].run, found[0].state, width, color)
            runs = selection.runs([one.run for one in found])
            shown = show_comparisons(selection.sorted(compared(runs)), width, color)
            open_ = [one for one in found if one.status in OPEN]
            return shown + (f"\n{status_text(open_, width, color)}" if open_ else "")

        _follow(at, view, watch)


def status(folders: Folders = None, watch: Watch = False) -> None:
    """Say what runs, what stands still, what is done or failed, and how long it will take.

    It reads event logs and locks alone, so it can be asked from another terminal at any time.
    """
    with answering():
        from lora_cl.report.status import status_text

        _follow(places(folders), lambda found: status_text(found, *terminal()), watch)


def _follow(at: list[Path], view: Callable[[list[Standing]], str], watch: bool) -> None:
    """Prints the view of what is below ``at``; with ``watch`` again and again, while runs go on.

    Where there is no terminal to be redrawn, only the last one is printed.
    """
    from lora_cl.report.status import RUNNING, standings

    known: dict[Path, Standing] = {}
    found = standings(at, known, say)
    while watch and any(one.status == RUNNING for one in found):
        if sys.stdout is not None and sys.stdout.isatty():
            tell(CLEARED + view(found).rstrip())
        time.sleep(REDRAW_SECONDS)
        found = standings(at, known)
    tell(view(found).rstrip())
