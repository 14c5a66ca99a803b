"""The command that hands event logs on to a tracker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_cl.cli.answering import answering, say, tell
from lora_cl.cli.data import one_of
from lora_cl.cli.places import Folders, places


def log_to(
    tracker: Annotated[str, typer.Argument(help="tensorboard, wandb or mlflow.")],
    folders: Folders = None,
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to (default: tracking/TRACKER).")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on beside runs that are under way, to their end.")
    ] = False,
) -> None:
    """Write runs down in a tracker, from their event logs: losses, accuracies, config, measures.

    Runs that are there already are left as they are. Nothing is sent anywhere.
    """
    with answering():
        from lora_cl.report import tracking

        one_of("log-to", tracker, list(tracking.TRACKERS))
        place = to if to is not None else Path("tracking") / tracker
        written, there = tracking.log_to(tracker, places(folders), place, follow, say)
        tell(f"{tracker}: {written} runs written to {place}, {there} were there")
