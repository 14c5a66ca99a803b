"""The command that chooses values of options by trials."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_cl.cli.answering import RUN_FAILED, answering, importing, prepare_processes, say, tell
from lora_cl.cli.asking import Address, Device, Engine, Jobs, Only, Results
from lora_cl.cli.data import DataDir, one_of
from lora_cl.cli.places import config_file, write
from lora_cl.records.folders import DEFAULT_RESULTS

if TYPE_CHECKING:
    from lora_cl.tuning import Tuning


def tune(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A YAML file, or a name of `list configs`.")
    ],
    override: Annotated[
        list[str],
        typer.Option("-o", "--override", metavar="KEY=VALUE", help="Set a key, as tune.trials=20."),
    ] = [],  # noqa: B006
    output: Annotated[
        Path | None,
        typer.Option(help="Where the tuned config goes (default: CONFIG.tuned.yaml, here)."),
    ] = None,
    results: Results = DEFAULT_RESULTS,
    jobs: Jobs = None,
    device: Device = "auto",
    data_dir: DataDir = None,
    only: Only = [],  # noqa: B006
    engine: Engine = "pool",
    address: Address = None,
) -> None:
    """Choose options of every method by equally many trials, without a look at test data.

    Trials are runs on the first tasks, measured on training samples held out. Those that are done
    are not done again. Writes a config with the chosen values, and a trace of all trials beside it.
    """
    with answering():
        one_of("--engine", engine, ["pool", "ray"])
        prepare_processes(device, 0 if engine == "ray" else jobs)
        with importing():
            import hashlib

            from lora_cl import api
            from lora_cl.records.files import sorted_json
            from lora_cl.tuning import tuned_yaml

        experiment = api.load_config(config_file(config), override)
        place = output or Path(f"{config.stem}.tuned.yaml")
        beside = place.with_suffix(".trace.json")
        tuning = api.tune(
            experiment,
            results=results,
            jobs=jobs,
            device=device,
            data_dir=data_dir,
            only=only,
            engine=engine,
            address=address,
            say=say,
        )
        trace = sorted_json({"experiment": experiment.config.name, **tuning.trace()})
        command = f"lora-cl run {shlex.quote(str(place))}"
        digest = hashlib.sha256(trace).hexdigest()
        text = tuned_yaml(experiment.config, tuning, digest, command)
        for path, content in ((beside, trace), (place, text.encode())):
            write(path, content)
        _tell(tuning)
        say(f"written to {place}, the trials to {beside}; next: {command}")
    if any(tuning.best(label) is None for label in tuning.tried):
        raise typer.Exit(RUN_FAILED)


def _tell(tuning: Tuning) -> None:
    """For each method: the validation accuracy as the config was and as chosen, and the values."""
    from lora_cl.text import NOTHING, percent

    width = max(map(len, tuning.tried), default=0)
    for label, tried in tuning.tried.items():
        best, given = tuning.best(label), tried[0].mean
        before = NOTHING if given is None else percent(given)
        told = "no trial came to an end"
        if best is not None and best.mean is not None:
            values = ", ".join(f"{key}={value}" for key, value in best.trial.values.items())
            told = f"{percent(best.mean)}  {values or 'as given'}"
        tell(f"{label:<{width}}  {len(tried):>3} trials  validation {before} -> {told}")
