"""The command that holds our numbers against published ones."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lora_cl.cli.answering import (
    RUN_FAILED,
    answering,
    importing,
    prepare_processes,
    say,
    tell_plan,
)
from lora_cl.cli.asking import Address, Device, DryRun, Engine, Jobs, Output, Results
from lora_cl.cli.data import DataDir, one_of
from lora_cl.cli.places import config_files, deliver, terminal
from lora_cl.errors import ConfigError
from lora_cl.records.folders import DEFAULT_RESULTS

if TYPE_CHECKING:
    from lora_cl.config import Experiment
    from lora_cl.report.published import Table

QUICK_SEEDS = 2


def verify(
    presets: Annotated[
        list[str],
        typer.Argument(
            metavar="PRESET...",
            help="Configs with an `expect:` section: files, or names of `list configs`; * stands "
            "for anything.",
        ),
    ],
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Two seeds of the cheap cells: a weak verdict in minutes."),
    ] = False,
    seeds: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="So many seeds, not those of the preset.")
    ] = None,
    results: Results = DEFAULT_RESULTS,
    jobs: Jobs = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    engine: Engine = "pool",
    address: Address = None,
    dry_run: DryRun = False,
    format: Annotated[  # noqa: A002
        str, typer.Option(help="table, markdown, latex or json.")
    ] = "table",
    output: Output = None,
) -> None:
    """Run what is missing of published experiments, and compare: ours, theirs, pass or fail.

    A cell passes if the means are within two standard errors of their difference. Exit code 1 if
    one does not, or cannot be judged.
    """
    with answering():
        one_of("--engine", engine, ["pool", "ray"])
        prepare_processes(device, 0 if dry_run or engine == "ray" else jobs)
        with importing():
            from lora_cl import api
            from lora_cl.report import aggregate
            from lora_cl.report.published import FORMATS, PASS, summary, verdicts, verification

        one_of("--format", format, list(FORMATS))
        seeds = QUICK_SEEDS if quick and seeds is None else seeds
        asked = [_asked(api.load_config(path), quick, seeds) for path in config_files(presets)]
        names = [one.config.name for one in asked]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"PRESET: two experiments are called {twice[0]}")
        where: dict[str, Any] = {"results": results, "device": device, "data_dir": data_dir}
        if dry_run:
            tell_plan(api.plan(asked, **where, say=say))
            return
        records = api.run(asked, **where, jobs=jobs, engine=engine, address=address, say=say)
        tables = [_table(one) for one in asked]
        found = verdicts(aggregate(records), tables)
        width, color = terminal() if output is None else (None, False)
        deliver(verification(tables, found, format, width, color), output)
        if output is not None or format == "json":
            say(summary(found))
    done = all(record.status == "done" for record in records)
    if not done or any(one.verdict != PASS for table in found for one in table):
        raise typer.Exit(RUN_FAILED)


def _asked(experiment: Experiment, quick: bool, seeds: int | None) -> Experiment:
    """The experiment with the methods of which something was published, and its seeds."""
    expected = experiment.expect
    if expected is None:
        message = "has no `expect:` section, with what was published; `lora-cl run` runs it"
        raise ConfigError(f"{experiment.source}: {message}")
    labels = expected.quick if quick and expected.quick is not None else list(expected.cells)
    config = experiment.config
    methods = {label: one for label, one in config.methods.items() if label in labels}
    changed: dict[str, Any] = {"methods": methods}
    changed |= {} if seeds is None else {"seeds": list(range(seeds))}
    return replace(experiment, config=config.model_copy(update=changed))


def _table(experiment: Experiment) -> Table:
    """What was published of the methods of the experiment, as reports know it."""
    from lora_cl.report.published import Published, Table

    expected = experiment.expect
    assert expected is not None
    cells = {
        label: Published(**expected.cells[label].model_dump())
        for label in experiment.config.methods
    }
    return Table(experiment.config.name, expected.source, cells)
