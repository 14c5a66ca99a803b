"""The exception tree. Every error that a person can cause or mend is a ``LoraClError``."""

from __future__ import annotations


class LoraClError(Exception):
    """Something that a person can mend; its message is one or a few plain lines."""


class ConfigError(LoraClError):
    """The request was wrong; nothing was started.

    ``key`` is the dotted key of the config that is to blame, where one is known.
    """

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class DataError(LoraClError):
    """A data set cannot be had, or what was found is not what it should be."""


class ResultsError(LoraClError):
    """A run folder cannot be read or written."""


class MethodError(LoraClError):
    """A method cannot do what it was asked for, such as train when no free weight is left."""


class BrokenPromiseError(LoraClError):
    """A method that calls itself isolated changed what an earlier task uses."""


class OutOfTimeError(LoraClError):
    """Time was up; what is not done goes on from its checkpoint when it is asked for again."""


class DivergedError(LoraClError):
    """The loss of a run stopped being a finite number.

    ``task`` is the task that was being learned, ``step`` the optimiser step within its fit.
    """

    def __init__(self, task: int, step: int) -> None:
        super().__init__(f"the loss is not a finite number at task {task}, step {step}")
        self.task = task
        self.step = step
