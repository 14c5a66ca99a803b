"""The commands about the adapters of a finished run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from lora_cl.cli.answering import answering, say, tell
from lora_cl.cli.data import DataDir, one_of
from lora_cl.cli.predicting import Run
from lora_cl.errors import ConfigError
from lora_cl.text import aligned, count, percent, size

adapters_app = typer.Typer(
    help="The adapters of a finished run: look at them, take them away, put them together.",
    no_args_is_help=True,
)

Format = Annotated[str, typer.Option(help="table or json.")]
Task = Annotated[int | None, typer.Option(min=0, help="Only this task.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="A new or empty folder.")]
LARGEST = 4
"""Singular values that a table has room for."""


@adapters_app.command("list")
def list_(run: Run, format: Format = "table", data_dir: DataDir = None) -> None:  # noqa: A002
    """Say what the bank holds: task, rank, layers, parameters, bytes, norm, accuracy."""
    with answering():
        one_of("--format", format, ["table", "json"])
        from lora_cl.running.inspecting import listed
        from lora_cl.running.loading import loaded

        found = listed(*loaded(run, data_dir=data_dir))
        if format == "json":
            tell(_json([asdict(one) for one in found]))
            return
        head = ["task", "kind", "rank", "layers", "parameters", "bytes", "norm", "accuracy", "name"]
        rows = [
            [
                str(one.task),
                one.kind,
                f"{one.rank:g}",
                str(one.layers),
                count(one.parameters),
                size(one.bytes),
                f"{one.norm:.3g}",
                "-" if one.accuracy is None else percent(one.accuracy),
                one.name,
            ]
            for one in found
        ]
        tell(aligned([head, *rows], left=(1, 8)))


@adapters_app.command()
def show(
    run: Run,
    task: Task = None,
    format: Format = "table",  # noqa: A002
    data_dir: DataDir = None,
) -> None:
    """Look inside: per layer norm, effective rank and singular values; the tasks' overlap.

    Without --task, each layer's numbers are means over the tasks.
    """
    with answering():
        one_of("--format", format, ["table", "json"])
        from lora_cl.running.inspecting import layers_of, overlaps, require_bank
        from lora_cl.running.loading import load_run

        method = require_bank(load_run(run, data_dir=data_dir))
        tasks = sorted(method.bank) if task is None else [task]
        layers = {k: layers_of(method, k) for k in tasks}
        meeting = overlaps(method)
        if format == "json":
            plain = {str(k): [asdict(one) for one in found] for k, found in layers.items()}
            tell(_json({"layers": plain, "overlaps": asdict(meeting)}))
            return
        several = len(tasks) > 1
        ranks = f"effective rank{' (mean)' if several else ''}"
        head = ["layer", "norm", "of the weight", ranks, "largest singular values"]
        rows = []
        for same in zip(*layers.values(), strict=True):
            values = [
                _mean([one.singular_values[k : k + 1] for one in same]) for k in range(LARGEST)
            ]
            rows.append(
                [
                    same[0].layer,
                    f"{sum(one.norm for one in same) / len(same):.3g}",
                    f"{100 * sum(one.relative for one in same) / len(same):.2g} %",
                    f"{sum(one.effective_rank for one in same) / len(same):.2f}",
                    " ".join(f"{value:.3g}" for value in values if value is not None),
                ]
            )
        tell(aligned([head, *rows], left=(0, 4)))
        for side, matrix, chance in (
            ("go in", meeting.inputs, meeting.by_chance[0]),
            ("come out", meeting.outputs, meeting.by_chance[1]),
        ):
            tell(f"\noverlap of the directions that {side} (by chance {chance:.2f})")
            cells = [["-" if v is None else f"{v:.2f}" for v in row] for row in matrix]
            names = [str(k) for k in meeting.tasks]
            tell(aligned([["task", *names], *([n, *c] for n, c in zip(names, cells, strict=True))]))


@adapters_app.command()
def export(
    run: Run,
    task: Annotated[int, typer.Option(min=0, help="Whose adapter.")],
    output: Output,
    format: Annotated[str, typer.Option(help="peft or safetensors.")] = "peft",  # noqa: A002
    merge: Annotated[
        bool, typer.Option("--merge", help="Write the network with the adapter in its weights.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Take an adapter away, with a model card: for PEFT, as plain tensors, or merged."""
    with answering():
        one_of("--format", format, ["peft", "safetensors"])
        from lora_cl import bank

        bank.export_adapter(run, task, output, form=format, merge=merge, data_dir=data_dir)
        say(f"written to {output}")


@adapters_app.command("import")
def import_(
    run: Run,
    source: Annotated[Path, typer.Argument(metavar="DIR", help="An adapter in PEFT's format.")],
    output: Output,
    classes: Annotated[str, typer.Option(help="Names of its outputs, with commas between.")],
    name: Annotated[str, typer.Option(help="What the task is called.")] = "imported",
    data_dir: DataDir = None,
) -> None:
    """Make a bank of the run's adapters and one that PEFT trained on the same base."""
    with answering():
        from lora_cl import bank

        named = [one.strip() for one in classes.split(",")]
        task = bank.import_adapter(run, source, output, classes=named, name=name, data_dir=data_dir)
        say(f"written to {output}, as task {task}")


@adapters_app.command()
def add(
    run: Run,
    task: Annotated[Path, typer.Option(metavar="CONFIG", help="A config of one task.")],
    output: Output,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    data_dir: DataDir = None,
) -> None:
    """Make a bank of the run's adapters and one that is trained now, by the run's method."""
    with answering():
        from lora_cl import bank
        from lora_cl.config import load_config

        given = load_config(task)
        number, accuracy = bank.add_task(run, given, output, device=device, data_dir=data_dir)
        say(f"written to {output}, as task {number}: test accuracy {percent(accuracy)} %")


@adapters_app.command()
def remove(
    run: Run,
    task: Annotated[int, typer.Option(min=0, help="Which task is left out.")],
    output: Output,
    data_dir: DataDir = None,
) -> None:
    """Make a bank of the run's adapters but one; the others keep their numbers."""
    with answering():
        from lora_cl import bank

        bank.remove_adapter(run, task, output, data_dir=data_dir)
        say(f"written to {output}")


@adapters_app.command()
def merge(
    run: Run,
    how: Annotated[
        str,
        typer.Option(
            help="linear, cat, svd, ties, dare_ties, magnitude_prune; several with commas, or all."
        ),
    ] = "linear",
    tasks: Annotated[
        str | None, typer.Option(metavar="K,...", help="Which tasks (default: all).")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="W,...", help="One each (default: 1/T; 1 for ties).")
    ] = None,
    density: Annotated[
        float, typer.Option(help="Share of entries that ties, dare_ties, magnitude_prune keep.")
    ] = 0.2,
    rank: Annotated[int | None, typer.Option(min=1, help="Of svd (default: the run's).")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A folder for the merged network.")
    ] = None,
    format: Format = "table",  # noqa: A002
    data_dir: DataDir = None,
) -> None:
    """Put adapters together, and say what each task's accuracy is before and after."""
    with answering():
        one_of("--format", format, ["table", "json"])
        numbers = None if tasks is None else _numbers("--tasks", tasks, int)
        factors = None if weights is None else _numbers("--weights", weights, float)
        from lora_cl import bank
        from lora_cl.adapters.merging import HOWS

        ways = list(HOWS) if how == "all" else [way.strip() for way in how.split(",")]
        for way in ways:
            one_of("--how", way, [*HOWS, "all"])
        found = bank.merge_adapters(
            run,
            numbers,
            how=ways,
            weights=factors,
            density=density,
            rank=rank,
            output=output,
            data_dir=data_dir,
        )
        if format == "json":
            rows = [
                {**asdict(one), "merged": dict(zip(ways, one.merged, strict=True))} for one in found
            ]
            tell(_json(rows))
        else:
            shown = [[one.base, one.own, *one.merged] for one in found]
            averages = [sum(column) / len(column) for column in zip(*shown, strict=True)]
            cells = [
                [str(one.task), *map(percent, row)] for one, row in zip(found, shown, strict=True)
            ]
            tell(
                aligned(
                    [
                        ["task", "no adapter", "its own", *ways, "name"],
                        *([*row, one.name] for row, one in zip(cells, found, strict=True)),
                        ["mean", *map(percent, averages), ""],
                    ],
                    left=(3 + len(ways),),
                )
            )
        if output is not None:
            say(f"written to {output}")


def _numbers(option: str, text: str, kind: type[Any]) -> list[Any]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option} {text}: is no list of numbers with commas between") from None


def _mean(lists: Sequence[Sequence[float]]) -> float | None:
    values = [value for one in lists for value in one]
    return sum(values) / len(values) if values else None


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False)
