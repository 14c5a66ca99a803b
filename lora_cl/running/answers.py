"""What a finished run says of files, an answer for each input."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from lora_cl.methods import Method
from lora_cl.methods.predicting import outputs_of
from lora_cl.running.reader import Reader


@dataclass(frozen=True)
class Answer:
    """For one input: the task it was taken for (None: one head answers for all), the likeliest
    label with its probability, and the probability of every label."""

    input: str
    task: int | None
    label: str
    probability: float
    probabilities: dict[str, float]


def answers(
    method: Method,
    files: Sequence[Path],
    task: int | None,
    router: str | None,
    column: str,
) -> list[Answer]:
    """The answers of a run that was loaded; DataError for files that hold no inputs of it."""
    assert isinstance(method.reads, Reader)
    names, x = method.reads.files(files, column)
    labels, probabilities, tasks = method.predict(x, task, router)
    found: list[int] = [] if tasks is None else tasks.tolist()
    outputs = {k: outputs_of(method, k) for k in set(found) or {method.learned[-1]}}
    made = []
    for row, (name, label) in enumerate(zip(names, labels, strict=True)):
        owner = found[row] if found else None
        called = outputs[method.learned[-1] if owner is None else owner]
        # Digits beyond those of float32 would be noise.
        each = [float(f"{p:.7g}") for p in probabilities[row, : len(called)].tolist()]
        made.append(Answer(name, owner, label, max(each), dict(zip(called, each, strict=True))))
    return made


def as_csv(given: Sequence[Answer]) -> str:
    """A table of input, task, label and probability."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["input", "task", "label", "probability"])
    writer.writerows([one.input, one.task, one.label, one.probability] for one in given)
    return text.getvalue().rstrip()


def as_json(given: Sequence[Answer]) -> str:
    """A list of objects, with the probability of every label."""
    return json.dumps([asdict(one) for one in given], indent=1, ensure_ascii=False)


FORMATS = {"csv": as_csv, "json": as_json}
