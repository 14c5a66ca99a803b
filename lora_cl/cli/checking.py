"""The command that holds results against what is required of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_cl.cli.answering import RUN_FAILED, answering, say, tell
from lora_cl.cli.places import places, write


def check(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Results directories or run folders.")
    ],
    require: Annotated[
        list[str],
        typer.Option(metavar="REQUIREMENT", help='As "lora.forgetting <= 0"; can be repeated.'),
    ],
    junit: Annotated[
        Path | None, typer.Option(help="Write the findings to this file as JUnit's XML, too.")
    ] = None,
) -> None:
    """Check that finished runs hold what is required of them. Exit code 1 if one does not.

    A requirement is LABEL.MEASURE SIGN NUMBER: of the mean over seeds, accuracies as fractions. It
    is not met where a seed is missing or failed.
    """
    with answering():
        from lora_cl.report import Selection, comparisons
        from lora_cl.report.requirements import findings, requirement
        from lora_cl.report.requirements import junit as as_junit

        wanted = [requirement(text) for text in require]
        found = findings(comparisons(places(folders), Selection(), say), wanted)
        for one in found:
            tell(f"{'FAILED' if one.problem else 'ok'}  {one.requirement.text}: {one.told}")
        if junit is not None:
            write(junit, as_junit(found))
    if any(one.problem for one in found):
        raise typer.Exit(RUN_FAILED)
