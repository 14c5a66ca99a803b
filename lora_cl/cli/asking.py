"""What several commands can be told alike."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Results = Annotated[Path, typer.Option(help="Where run folders go.")]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=0, help="Runs at a time (default: what fills the usable cores; 0: in this process)."
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Only = Annotated[
    list[str], typer.Option(metavar="LABEL", help="Only these methods; * stands for anything.")
]
Output = Annotated[Path | None, typer.Option(help="Write to this file instead of the terminal.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, and train nothing.")
]
Engine = Annotated[str, typer.Option(help="pool: processes of this machine; ray: a Ray cluster.")]
Address = Annotated[
    str | None, typer.Option(help="Of the Ray cluster; without it this machine is one.")
]
