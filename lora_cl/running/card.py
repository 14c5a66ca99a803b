"""The model card of an adapter that is taken away: what it is, of what, and how to use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_cl.models import Origin
from lora_cl.text import one_line, percent

USE_PLAIN = """import lora_cl
from peft import PeftModel

base = lora_cl.load_base(run, task={task})  # run: the folder of the run, see above
model = PeftModel.from_pretrained(base, "{folder}").eval()
logits = model(x)  # x (N, {shape}), see Inputs"""

USE_CLASSIFIER = """import {library}
from peft import PeftModel

base = {call}  # and load the weights named above into it
model = PeftModel.from_pretrained(base, "{folder}").eval()
logits = model(x)  # x (N, 3, height, width), see Inputs"""

USE_TEXT = """import torch, transformers
from peft import PeftModel
from safetensors.torch import load_file

base = {call}
model = PeftModel.from_pretrained(base, "{folder}").eval()
tokens = transformers.AutoTokenizer.from_pretrained({name!r})(
    texts, padding=True, truncation=True, max_length={length}, return_tensors="pt"
)
hidden = model(**tokens).last_hidden_state
{pooling}
head = load_file("{folder}/head.safetensors")
logits = features @ head["weight"].T + head["bias"]"""

POOLING = {
    "mean": """there = tokens["attention_mask"].unsqueeze(2)
features = (hidden * there).sum(1) / there.sum(1)""",
    "cls": "features = hidden[:, 0]",
    "last": """last = tokens["attention_mask"].sum(1) - 1
features = hidden[torch.arange(len(hidden)), last]""",
}


@dataclass(frozen=True)
class Card:
    """What a card tells: of the run, of the task (``classes`` in the order of the logits), and of
    the inputs as the record describes them."""

    run_hash: str
    version: str
    folder: str
    experiment: str
    method: str
    options: Mapping[str, Any]
    task: int
    name: str
    classes: Sequence[str]
    accuracy: float | None
    inputs: Mapping[str, Any]
    model: str


def model_card(
    card: Card, origin: Origin | None, form: str, merge: bool, separate_head: bool
) -> str:
    """A README.md with the metadata that model hubs read."""
    base = origin.name if origin else None
    license_ = origin.license if origin else None
    meta = ["library_name: peft"] if form == "peft" and not merge else []
    if origin and origin.library == "transformers":
        meta.append(f"base_model: {base}")
    meta += [f"license: {license_}"] if license_ else []
    meta += ["tags: [lora, continual-learning, lora-cl]"]
    accuracy = "not measured" if card.accuracy is None else f"{percent(card.accuracy)} %"
    of_base = license_ or "not known here: that of its weights, which is for you to look up"
    lines = [
        "---",
        *meta,
        "---",
        "",
        f"# {one_line(card.experiment)}, task {card.task}: {one_line(card.name)}",
        "",
        f"{'A network merged with' if merge else 'An adapter,'} {card.method}, trained by lora-cl "
        f"{card.version} on task {card.task} of a sequence, the base frozen.",
        "",
        "| | |",
        "|---|---|",
        f"| base | {one_line(base or card.model)} |",
        f"| licence of the base | {of_base} |",
        f"| classes, in the order of the logits | {one_line(', '.join(card.classes), 2000)} |",
        f"| test accuracy on this task | {accuracy} |",
        f"| options | {one_line(_options(card.options), 500)} |",
        f"| run | {card.run_hash} |",
        "",
        "## Inputs",
        "",
        _inputs(card.inputs),
    ]
    if not merge and form == "peft":
        lines += ["", "## Use", "", "```python", _use(card, origin), "```"]
    if separate_head:
        lines += [
            "",
            "`head.safetensors` holds the linear layer (weight, bias) from features to logits.",
        ]
    return "\n".join(lines) + "\n"


def _use(card: Card, origin: Origin | None) -> str:
    words: dict[str, Any] = {"folder": card.folder, "task": card.task}
    shape = card.inputs["shape"]
    if origin is None:
        return USE_PLAIN.format(**words, shape=", ".join(map(str, shape)))
    call = origin.call.format(classes=len(card.classes))
    if origin.library != "transformers":
        return USE_CLASSIFIER.format(**words, library=origin.library, call=call)
    pooling = POOLING[card.inputs["pooling"]]
    return USE_TEXT.format(**words, call=call, name=origin.name, length=shape[0], pooling=pooling)


def _inputs(inputs: Mapping[str, Any]) -> str:
    shape = tuple(inputs["shape"])
    if inputs["kind"] == "tokens":
        return f"Texts, cut to {shape[0]} tokens; pooling: {inputs['pooling']}."
    if "resized_to" not in inputs:
        return f"Inputs of shape {shape}, bytes scaled to [0, 1]."
    height, width = inputs["resized_to"]
    told = f"Images of {shape}, bytes scaled to [0, 1], stretched to {height} x {width} (bilinear, "
    told += "antialiased)"
    if inputs["mean"]:
        told += f", then (x - mean) / std with mean {inputs['mean']} and std {inputs['std']}"
    return f"{told}; grey repeated to 3 channels."


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in options.items())
