"""The command that asks a finished run about files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_cl.cli.answering import answering
from lora_cl.cli.asking import Device
from lora_cl.cli.data import DataDir, one_of
from lora_cl.cli.places import deliver

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="Write to this file instead of the terminal.")
]


def predict(
    run: Run,
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILES...", help="Images, .npz (array x), or tables of texts."),
    ],
    task: Annotated[int | None, typer.Option(min=0, help="Which task the files are of.")] = None,
    router: Annotated[
        str | None,
        typer.Option(
            help="What finds the task of each input: entropy, energy, prototype, mahalanobis, "
            "adapted-prototype or adapted-mahalanobis."
        ),
    ] = None,
    format: Annotated[str, typer.Option(help="csv or json.")] = "csv",  # noqa: A002
    output: Output = None,
    column: Annotated[str, typer.Option(help="The column of a table that holds texts.")] = "text",
    device: Device = "auto",
    data_dir: DataDir = None,
) -> None:
    """Say what a finished run makes of images, arrays or texts: label and probability.

    No data set is needed; weights of a pretrained network are.
    """
    with answering():
        one_of("--format", format, ["csv", "json"])
        from lora_cl import bank
        from lora_cl.running.answers import FORMATS

        given = bank.predict(
            run,
            files,
            task=task,
            router=router,
            column=column,
            device=device,
            data_dir=data_dir,
        )
        deliver(FORMATS[format](given), output)
