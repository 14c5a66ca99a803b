"""`probe:` what pretraining gave, and what learning took away of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.neighbors import NearestCentroid

from lora_cl.config import parse_config
from lora_cl.data import DATASETS, data_root, pixels
from lora_cl.errors import ConfigError
from lora_cl.running.loading import load_run
from lora_cl.running.preparation import check, prepare
from lora_cl.running.runner import Outcome, Where, run_one
from lora_cl.testing.interrupting import cut_and_compare
from lora_cl.testing.runs import outcome

OTHERS = [4, 5, 6, 7, 8, 9]
CONFIG = """
name: probe
benchmark: {{name: split, dataset: digits, tasks: 2, class_order: [0, 1, 2, 3]}}
model: {{hidden: [16]}}
base: {{pretrain: {{dataset: digits, epochs: 3}}}}
train: {{epochs: 4, lr: 0.01, batch_size: 32}}
methods: {{{method}: }}
"""
PROBE = "probe={dataset: digits, classes: [4, 5, 6, 7, 8, 9]}"


def done(method: str, results: Path, *overrides: str) -> tuple[Path, dict[str, Any]]:
    experiment = parse_config(CONFIG.format(method=method), "c.yaml", overrides)
    (run,) = prepare(experiment, None, print)
    ended = run_one(run, Where(results))
    assert ended == Outcome("done"), ended.message
    return results / run.folder, outcome(results / run.folder)


def by_scikit_learn(folder: Path) -> float:
    """The nearest class mean on the other classes, in the backbone as the last task sees it."""
    method = load_run(folder)
    data = DATASETS["digits"](DATASETS["digits"].Options()).load(data_root(None))
    parts = []
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        rows = torch.isin(y, torch.tensor(OTHERS))
        with method.view(1) as network, torch.no_grad():
            features = network.backbone.eval()(pixels(x[rows]))
        parts.append((features.numpy(), y[rows].numpy()))
    return float(NearestCentroid().fit(*parts[0]).score(*parts[1]))


@pytest.mark.filterwarnings("ignore:self.within_class_std_dev_")  # Of units that never fire.
@pytest.mark.parametrize("method", ["frozen", "full", "lora", "pnn", "independent"])
def test_nothing_else_changes_and_the_numbers_are_those_of_scikit_learn(
    method: str, tmp_path: Path
) -> None:
    _, plain = done(method, tmp_path / "plain")
    folder, probed = done(method, tmp_path / "probed", PROBE)
    assert plain["result"]["probe"] is None
    assert probed["result"]["accuracy_matrix"] == plain["result"]["accuracy_matrix"]
    found = probed["result"]["probe"]
    assert 0.5 < found["before"] < 1.0
    assert found["after"] == pytest.approx(by_scikit_learn(folder), abs=1e-9)
    assert (found["after"] == found["before"]) == (method == "frozen")


def test_cut_off_anywhere_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = parse_config(CONFIG.format(method="full"), "c.yaml", [PROBE])
    (run,) = prepare(experiment, None, print)
    cut_and_compare(run, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("probe", "says"),
    [
        ("{dataset: digits, classes: [4, 10]}", "probe.classes: digits has no class 10, only 0..9"),
        ("{dataset: digits, classes: [4, 4]}", "probe.classes: [4, 4] names a class twice"),
        ("{dataset: synthetic}", "probe.dataset: synthetic has inputs of"),
        ("{dataset: digit}", "did you mean 'digits'?"),
    ],
)
def test_what_cannot_be_asked_is_one_line(probe: str, says: str) -> None:
    def asked() -> None:
        text = CONFIG.format(method="full")
        check(parse_config(text, "c.yaml", [f"probe={probe}"]), None)

    with pytest.raises(ConfigError) as caught:
        asked()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
