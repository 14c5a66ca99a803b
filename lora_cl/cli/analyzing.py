"""The command that asks whether what training changed is of low rank."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer

from lora_cl.cli.answering import answering, tell
from lora_cl.cli.data import DataDir, one_of
from lora_cl.cli.predicting import Run
from lora_cl.errors import ConfigError
from lora_cl.text import aligned, percent

if TYPE_CHECKING:
    from lora_cl.running.analysis import LayerChange


def analyze(
    run: Run,
    ranks: Annotated[
        str, typer.Option(metavar="R,...", help="Ranks to cut the changes to.")
    ] = "1,2,4,8,16,32,64",
    format: Annotated[str, typer.Option(help="table or json.")] = "table",  # noqa: A002
    data_dir: DataDir = None,
) -> None:
    """Say of what rank the changes are that `full` or `independent` made to the base's weights.

    Per layer, and what each task's accuracy is with all changes cut to a rank.
    """
    with answering():
        one_of("--format", format, ["table", "json"])
        try:
            wanted = sorted({int(part) for part in ranks.split(",")})
        except ValueError:
            wanted = []
        if not wanted or wanted[0] < 1:
            raise ConfigError(f"--ranks {ranks}: is no list of numbers from 1, with commas between")
        from lora_cl import bank

        found = bank.analyze(run, wanted, data_dir=data_dir)
        if format == "json":
            tell(json.dumps(asdict(found), indent=1, ensure_ascii=False))
            return
        head = ["task", "layer", "norm", "of rank", "of the weight", "effective rank"]
        energies = [f"energy in {rank}" for rank in wanted]
        rows = [
            [str(one.task), one.layer, f"{one.norm:.3g}", str(one.full_rank), *_numbers([one])]
            for one in found.layers
        ]
        changed = [one for one in found.layers if one.norm]
        if changed:
            rows.append(["mean", "", "", "", *_numbers(changed)])
        tell(aligned([[*head, *energies], *rows], left=(1,)))
        tell("\naccuracy with all changes cut to a rank")
        shown = [[cut.without, *cut.by_rank, cut.whole] for cut in found.cuts]
        means = [sum(column) / len(column) for column in zip(*shown, strict=True)]
        cells = [
            [str(cut.task), *map(percent, row), cut.name]
            for cut, row in zip(found.cuts, shown, strict=True)
        ]
        titles = ["task", "0", *map(str, wanted), "whole", "name"]
        tell(aligned([titles, *cells, ["mean", *map(percent, means), ""]], left=(3 + len(wanted),)))


def _numbers(layers: Sequence[LayerChange]) -> list[str]:
    """The means over ``layers`` of the share of the weight, the effective rank and the energies."""
    energies = zip(*(one.energy for one in layers), strict=True)
    known = [[share for share in of_rank if share is not None] for of_rank in energies]
    shares = [f"{100 * fmean(of_rank):.0f} %" if of_rank else "-" for of_rank in known]
    relative = 100 * fmean(one.relative for one in layers)
    return [f"{relative:.2g} %", f"{fmean(one.effective_rank for one in layers):.1f}", *shares]
