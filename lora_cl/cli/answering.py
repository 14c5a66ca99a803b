"""How a command answers: what it prints where, what goes wrong in a line, and the exit code."""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import typer

from lora_cl.cli.interrupts import INTERRUPTED, leave_at_once, listen, raise_interrupt
from lora_cl.errors import LoraClError, OutOfTimeError
from lora_cl.streams import occupy_standard_descriptors, patient, plain_where_needed
from lora_cl.text import one_line

if TYPE_CHECKING:
    from lora_cl.running.planning import Planned

RUN_FAILED, WRONG_REQUEST, OUT_OF_TIME = 1, 2, 75


class Settings:
    debug = False


class _UnheardError(Exception):
    """What was asked for could not be said."""


def tell(text: str) -> None:
    """Prints an answer on stdout; if that cannot be written, the command has failed."""
    if sys.stdout is None:
        raise _UnheardError("stdout: cannot be written: it is closed")
    try:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise _UnheardError(f"stdout: cannot be written: {error.strerror}") from None


def mention(text: str) -> None:
    """As ``tell``, of what is on record anyway: if nobody hears it, nothing has failed."""
    with suppress(_UnheardError, BrokenPipeError):
        tell(text)


def say(text: str) -> None:
    """A line about how it goes, on stderr; whether anybody hears it changes nothing."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def tell_plan(plan: Sequence[Planned]) -> None:
    """What `--dry-run` answers: each run, and whether it is there already."""
    from lora_cl.running.planning import summary

    say(summary(plan))
    names = [f"{one.run.experiment} {one.run.label}" for one in plan]
    width = max(map(len, names), default=0)
    for name, one in zip(names, plan, strict=True):
        tell(f"{name:<{width}}  seed {one.run.seed}  {one.outlook}")


@contextmanager
def answering() -> Iterator[None]:
    """Turns what goes wrong into a line for people and an exit code."""
    with _heard_by(raise_interrupt):
        try:
            yield
        except typer.Exit:
            raise
        except OutOfTimeError as error:
            say(str(error))
            raise typer.Exit(OUT_OF_TIME) from None
        except LoraClError as error:
            refuse(error)
            raise typer.Exit(WRONG_REQUEST) from None
        except KeyboardInterrupt:
            say("interrupted; the same command goes on from here")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:  # The reader has seen enough.
            raise typer.Exit(RUN_FAILED) from None
        except _UnheardError as error:
            _explain(str(error))
            raise typer.Exit(RUN_FAILED) from None
        except Exception as error:
            _explain(_explained(error))
            raise typer.Exit(RUN_FAILED) from None


@contextmanager
def importing() -> Iterator[None]:
    """Around the long imports, which an exception would leave in pieces.

    They make some 300 000 objects that stay: nothing to look through, now or later.
    """
    gc.disable()
    try:
        with _heard_by(leave_at_once):
            yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _heard_by(handler: Callable[..., None]) -> Iterator[None]:
    before = listen(handler)
    try:
        yield
    finally:
        for number, handled in before.items():
            signal.signal(number, handled)


def refuse(error: LoraClError) -> None:
    """Says what is wrong with a request, a line for each thing."""
    _explain("\n".join(one_line(line, 2000) for line in str(error).splitlines()))


def _explain(text: str) -> None:
    """Says on stderr what went wrong; after the traceback, if that is wanted."""
    if Settings.debug:
        traceback.print_exc()
    say(f"error: {text}")


def _explained(error: Exception) -> str:
    if "torchvision::nms" in str(error):
        return (
            "torch and torchvision do not belong together (operator torchvision::nms does not "
            "exist); install both at once: pip install --force-reinstall torch torchvision"
        )
    kind = "" if isinstance(error, OSError) and str(error) else f"{type(error).__name__}: "
    return f"{kind}{one_line(error, 500)} (lora-cl --debug shows where)"


def prepare_processes(device: str, jobs: int | None) -> None:
    """This process and, if the workers need one of their own, the one that imports beside it."""
    from lora_cl.engines.workers import keep_memory, quiet_threads, start_early

    quiet_threads()
    keep_memory()
    if jobs != 0:
        start_early(device)


def answer(app: Callable[[], object]) -> None:
    """Does what the command line asks for, and ends this process."""
    listen(leave_at_once)
    occupy_standard_descriptors()
    plain_where_needed(sys.stdout)
    sys.stderr = patient(sys.stderr)
    code = 0
    try:
        app()
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else RUN_FAILED
    except OSError as error:  # A help text that cannot be written.
        _explain(f"stdout: cannot be written: {error.strerror}")
        code = RUN_FAILED
    if code != INTERRUPTED:  # Who interrupts does not wait for a reader.
        code = _flushed(code)
    os._exit(code)  # At once: taking torch apart would take half a second.


def _flushed(code: int) -> int:
    """The exit code, once all that was said has arrived, or has not."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError) as error:
        if code == 0 and not isinstance(error, BrokenPipeError):
            _explain(f"stdout: cannot be written: {getattr(error, 'strerror', error)}")
        code = code or RUN_FAILED
    return code
