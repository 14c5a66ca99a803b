"""The commands. Nothing here imports torch before a command needs it."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lora_cl import __version__
from lora_cl.cli.adapters import adapters_app
from lora_cl.cli.analyzing import analyze
from lora_cl.cli.answering import (
    RUN_FAILED,
    WRONG_REQUEST,
    Settings,
    answer,
    answering,
    importing,
    mention,
    prepare_processes,
    refuse,
    say,
    tell,
    tell_plan,
)
from lora_cl.cli.asking import Address, Device, DryRun, Engine, Jobs, Only, Output, Results
from lora_cl.cli.checking import check
from lora_cl.cli.data import DataDir, cache_app, data_app, one_of
from lora_cl.cli.listing import list_
from lora_cl.cli.places import Folders, config_file, deliver, places, terminal
from lora_cl.cli.predicting import predict
from lora_cl.cli.showing import report, show, status
from lora_cl.cli.starting import init
from lora_cl.cli.tracking import log_to
from lora_cl.cli.tuning import tune
from lora_cl.cli.verifying import verify
from lora_cl.errors import ConfigError, LoraClError
from lora_cl.records.folders import DEFAULT_RESULTS, unheard

if TYPE_CHECKING:
    from lora_cl.records.folders import Record

app = typer.Typer(
    name="lora-cl",
    help="Does this method forget, and what does it cost not to?",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(init)
app.command()(tune)
app.command()(check)
app.command()(verify)
app.add_typer(data_app, name="data")
app.add_typer(cache_app, name="cache")
app.add_typer(adapters_app, name="adapters")
app.command()(predict)
app.command()(analyze)

Configs = Annotated[
    list[Path], typer.Argument(metavar="CONFIG...", help="YAML files, or names of `list configs`.")
]
Overrides = Annotated[
    list[str],
    typer.Option("-o", "--override", metavar="KEY=VALUE", help="Set a key, as train.lr=0.01."),
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lora-cl {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    Settings.debug = debug


@app.command()
def run(
    configs: Configs,
    override: Overrides = [],  # noqa: B006
    results: Results = DEFAULT_RESULTS,
    jobs: Jobs = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    force: Annotated[bool, typer.Option(help="Repeat runs that are finished.")] = False,
    only: Only = [],  # noqa: B006
    engine: Engine = "pool",
    address: Address = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Only the I-th of N parts of the runs.")
    ] = None,
    max_time: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Stop at a checkpoint after 3h55m; exit code 75."),
    ] = None,
    dry_run: DryRun = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Say what failed alone.")] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Without a terminal: a line for every task.")
    ] = False,
) -> None:
    """Train every method of the configs on its tasks, for every seed, and record the results.

    Finished runs are skipped, interrupted ones are resumed.
    """
    with answering():
        if quiet and (verbose or dry_run):
            raise ConfigError(f"-q: says nothing, and {'-v' if verbose else '--dry-run'} asks to")
        begun, seconds = time.monotonic(), _seconds("--max-time", max_time)
        one_of("--engine", engine, ["pool", "ray"])
        prepare_processes(device, 0 if dry_run or engine == "ray" else jobs)
        with importing():
            from lora_cl import api

        asked: dict[str, Any] = {
            "experiments": [api.load_config(config_file(path), override) for path in configs],
            "results": results,
            "device": device,
            "data_dir": data_dir,
            "force": force,
            "only": only,
            "shard": shard,
            "say": unheard if quiet else say,
        }
        if dry_run:
            tell_plan(api.plan(**asked))
            return
        if seconds is not None:  # The long imports count, too.
            seconds -= time.monotonic() - begun
        asked |= {"progress": not quiet, "verbose": verbose}
        records = api.run(**asked, jobs=jobs, max_seconds=seconds, engine=engine, address=address)
        if quiet:
            _tell_failures(records)
        else:
            _tell_averages(records, results)
    if any(record.status != "done" for record in records):
        raise typer.Exit(RUN_FAILED)


@app.command()
def compare(
    folders: Folders = None,
    format: Annotated[  # noqa: A002
        str, typer.Option(help="table, markdown, latex, csv or json.")
    ] = "table",
    output: Output = None,
    details: Annotated[
        bool, typer.Option("--details", help="Show what each method records of itself.")
    ] = False,
    methods: Annotated[
        list[str], typer.Option(metavar="LABEL,...", help="Only these; * stands for anything.")
    ] = [],  # noqa: B006
    where: Annotated[
        list[str], typer.Option(metavar="KEY=VALUE", help="Only such runs, as rank=4 or seed=0.")
    ] = [],  # noqa: B006
    sort: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="The best first; the last, with - before.")
    ] = None,
    columns: Annotated[
        list[str], typer.Option(metavar="NAME,...", help="Measures and config keys, as in JSON.")
    ] = [],  # noqa: B006
    long: Annotated[
        bool, typer.Option("--long", help="CSV or JSON: a row for each run, task learned and task.")
    ] = False,
    baseline: Annotated[
        str | None,
        typer.Option(metavar="LABEL", help="Show the differences to this row, paired by seed."),
    ] = None,
) -> None:
    """Print the method tables of finished runs: mean and deviation over seeds.

    One table for each experiment, scenario and benchmark. Exit code 1 if no run in them is done.
    """
    with answering():
        from lora_cl.report import FORMATS, Selection, comparisons, measured, render
        from lora_cl.report.long import FORMATS as LONG_FORMATS
        from lora_cl.report.long import long_text

        one_of("--format", format, list(FORMATS))
        if long and (format not in LONG_FORMATS or details or columns or baseline is not None):
            told = "goes with --format csv or json, and without --details, --columns and --baseline"
            raise ConfigError(f"--long: {told}")
        selection = Selection(methods, where, sort, columns)
        found = comparisons(places(folders), selection, say)
        chosen = selection.chosen_columns(found)
        width, color = terminal() if output is None else (None, False)
        text = (
            long_text(found, format)
            if long
            else render(found, format, details, width, color, chosen, baseline)
        )
        deliver(text, output)
    if not measured(found):
        raise typer.Exit(RUN_FAILED)


@app.command()
def diff(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="A run folder.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another one.")],
) -> None:
    """Say where two runs part: config, versions, data, loss, accuracies. Exit code 1 if they do."""
    with answering():
        from lora_cl.report import differences

        found = differences(*places([run_a, run_b]))
        tell("\n".join(found) if found else "no difference")
    if found:
        raise typer.Exit(RUN_FAILED)


@app.command()
def fsck(
    folders: Folders = None,
) -> None:
    """Check every checksum: what is missing, damaged, foreign or left over. Changes nothing."""
    with answering():
        from lora_cl.config.syntax import to_yaml
        from lora_cl.records.integrity import fsck

        whole = fsck(places(folders), to_yaml, tell)
    if not whole:
        raise typer.Exit(RUN_FAILED)


@app.command()
def validate(configs: Configs, override: Overrides = [], data_dir: DataDir = None) -> None:  # noqa: B006
    """Check configs without training anything: all of them, whatever is wrong with one."""
    with answering():
        from lora_cl.config import load_config
        from lora_cl.running.preparation import check

        wrong = False
        for path in configs:
            try:
                experiment = load_config(config_file(path), override)
                unseen = check(experiment, data_dir)
            except LoraClError as error:
                refuse(error)
                wrong = True
                continue
            found = {run.folder for point in experiment.points for run in point.runs({})}
            note = f" ({'; '.join(unseen)})" if unseen else ""
            tell(f"{path}: valid, {len(found)} runs{note}")
        if wrong:
            raise typer.Exit(WRONG_REQUEST)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a config, for editors."""
    with answering():
        import json

        from lora_cl.config import config_schema

        tell(json.dumps(config_schema(), indent=2))


app.command("list")(list_)
for command in (show, report, status, log_to):
    app.command()(command)


def _seconds(option: str, text: str | None) -> float | None:
    from lora_cl.text import one_line, seconds_of

    if text is None:
        return None
    seconds = seconds_of(text)
    if seconds is None:
        told = one_line(text, 40)
        raise ConfigError(f"{option}: {told!r} is not allowed: it is a time such as 3h55m or 90s")
    return seconds


def _tell_failures(records: Sequence[Record]) -> None:
    """A line for each run that is not done, and why."""
    from lora_cl.report.reading import check
    from lora_cl.text import one_line

    for run in map(check, records):
        if not run.done:
            reason = f": {run.reason}" if run.reason else ""
            say(one_line(f"{run.experiment} {run.label} seed {run.seed}: {run.status}{reason}"))


def _tell_averages(records: Sequence[Record], results: Path) -> None:
    """What came of a command's runs, and the command that says more; nothing if none is done."""
    from lora_cl.report import COLUMNS, aggregate, measured, render

    found = aggregate(records)
    if not measured(found):
        return
    columns = [COLUMNS[name] for name in ("n_seeds", "average_accuracy", "forgetting")]
    width, color = terminal()
    mention(render(found, width=width, color=color, columns=columns).rstrip())
    folders = dict.fromkeys(str(results / record.experiment) for record in records)
    say(f"next: lora-cl compare {shlex.join(folders)}")


def main() -> None:
    """Does what the command line says, and ends this process."""
    answer(app)
