"""A config to begin with: what can be said, each with a line about it."""

from __future__ import annotations

BENCHMARKS = {
    "split": """\
  name: split            # the classes of one data set, dealt to tasks
  dataset: digits        # comes with the package; `lora-cl list datasets`, your own: docs/data.md
  tasks: 5
  class_order: shuffled  # another order for every seed, so that no order decides
""",
    "permuted": """\
  name: permuted         # all classes in every task; the pixels of each task are permuted
  dataset: digits        # comes with the package; `lora-cl list datasets`, your own: docs/data.md
  tasks: 5
""",
    "rotated": """\
  name: rotated          # all classes in every task; the images of each task are turned
  dataset: digits        # comes with the package; `lora-cl list datasets`, your own: docs/data.md
  tasks: 5
  degrees: 180           # of the last task, nearly: task k of T is turned by k x 180 / T
""",
    "sequence": """\
  name: sequence         # a data set for each task
  datasets: [digits, mnist, fashion-mnist]  # `lora-cl data fetch mnist fashion-mnist`
  size: 28               # to which the images of all are scaled
""",
}
"""By name of a benchmark, what a config says of it."""

SCENARIOS = {
    "task": "the task is given when it is tested: a head per task",
    "domain": "it is not given; one head, the same labels in every task",
    "class": "it is not given; all classes so far are told apart",
}

_TEMPLATE = """\
# What is compared here, and why.
# lora-cl run {file}        finished runs are skipped, killed ones go on
# Every key with its default and bounds: docs/reference.md, or `lora-cl list methods lora`.
name: my-experiment
benchmark:
{benchmark}
{scenarios}
scenario: {scenario}

# The network; `lora-cl list models` has convolutions, transformers and pretrained ones.
model: {{name: mlp, hidden: [400, 400]}}

# Where every method of a seed starts: random weights, or a backbone trained on other data first.
# base: {{pretrain: {{dataset: fashion-mnist, epochs: 3}}}}

# How each task is trained; a method's own `train:` overrides single keys.
train:
  epochs: 5              # or `iterations`, steps for each task
  batch_size: 16
  optimizer: adam
  lr: 1e-3
  # head_lr: 1e-2        # of the heads, where they want another
  # schedule: cosine     # or constant, linear

# Held out of every task's training to choose by; `lora-cl tune {file}` needs no test sample.
# validation: 0.1

# The rows of the table: a label, and the options that differ from the defaults.
methods:
  full: {{}}               # all weights, one task after another: what forgetting looks like
  frozen: {{}}             # heads alone: what it costs to learn nothing else
  joint: {{}}              # all tasks at once: the upper reference
  replay: {{per_class: 20}}
  lora: {{rank: 8, alpha: 16}}
  # lora-r2: {{method: lora, rank: 2, train: {{lr: 3e-3}}}}  # under a label of its own
  # ewc-lora: {{method: ewc, adapter: {{name: lora, rank: 8}}}}

# Several values of any key, a row each.
# sweep: {{train.lr: [1e-3, 1e-2]}}

seeds: 3                 # or a list; with fewer than 6 no exact p of a difference is below 0.05
"""


def starting_config(benchmark: str, scenario: str, file: str) -> str:
    """The text of a config of one of BENCHMARKS and SCENARIOS that is valid as it is; ``file`` is
    where it will be."""
    known = "\n".join(f"# {name:<6}  {meaning}" for name, meaning in SCENARIOS.items())
    return _TEMPLATE.format(
        file=file, benchmark=BENCHMARKS[benchmark], scenario=scenario, scenarios=known
    )
