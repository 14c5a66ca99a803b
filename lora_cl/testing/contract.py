"""What every method promises, in every scenario, with every adapter it takes.

``TestContract = method_contract("my_package.l2:L2")`` in a test file is all it takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from safetensors import safe_open

from lora_cl.benchmarks import SCENARIOS
from lora_cl.config import parse_config
from lora_cl.data import streaming
from lora_cl.errors import ConfigError
from lora_cl.methods import METHODS
from lora_cl.methods.shared import SharedBackboneOptions
from lora_cl.models import fingerprint
from lora_cl.records.confusion import confusion
from lora_cl.records.events import read_events
from lora_cl.records.folders import Record, read_record
from lora_cl.running.loading import load_run
from lora_cl.running.preparation import check, prepare
from lora_cl.running.runner import Where, run_one
from lora_cl.testing.by_hand import learned_by_hand, made
from lora_cl.testing.interrupting import cut_and_compare
from lora_cl.testing.runs import one_run, outcome
from lora_cl.training.loop import accuracy

ADAPTERS = (None, "lora", "dora", "qlora")
ADAM = "{epochs: 4, batch_size: 16, lr: 0.01, weight_decay: 0.001}"
SGD = "{epochs: 4, batch_size: 16, lr: 0.005, optimizer: sgd, momentum: 0.9, weight_decay: 0.01}"
WIDER = ("benchmark.dataset.features=64", "model.hidden=[64, 32]")
"""Matrix products of a few columns round otherwise in other batches, and then are not cached."""


class Case(NamedTuple):
    """A method as its config names it, its options, a scenario, and an adapter if it takes one."""

    method: str
    options: str
    scenario: str
    adapter: str | None

    @property
    def label(self) -> str:
        return self.method.rpartition(":")[2]

    @property
    def entry(self) -> str:
        """The method's line in a config, without a label."""
        adapter = f"adapter: {{name: {self.adapter}, rank: 3}}" if self.adapter else ""
        return ", ".join(filter(None, (f"method: '{self.method}'", self.options, adapter)))

    def text(self, training: str = ADAM) -> str:
        return (
            "name: contract\n"
            "benchmark: {name: split, tasks: 3, dataset: "
            "{name: synthetic, classes: 6, features: 12, separation: 5.0}}\n"
            f"scenario: {self.scenario}\n"
            "model: {name: mlp, hidden: [24, 16]}\n"
            f"train: {training}\n"
            f"methods: {{{self.label}: {{{self.entry}}}}}\n"
        )

    def run(self, results: Path, training: str = ADAM) -> Record:
        (run,) = prepare(parse_config(self.text(training), "contract.yaml"), None, print)
        ended = run_one(run, Where(results))
        assert ended.status == "done", ended.message
        return read_record(results / run.folder)

    def tiny(self, results: Path, *overrides: str) -> Path:
        """The folder of a run that takes a moment."""
        run = one_run(f"{self.label}: {{method: '{self.method}'}}", self.scenario, *overrides)
        assert run is not None
        ended = run_one(run, Where(results))
        assert ended.status == "done", ended.message
        return results / run.folder


def cases_of(method: str, options: str) -> Iterator[Case]:
    """Every scenario, and every adapter, that the method has a meaning for."""
    takes_adapters = issubclass(METHODS[method].Options, SharedBackboneOptions)
    for scenario, adapter in product(SCENARIOS, ADAPTERS if takes_adapters else ADAPTERS[:1]):
        case = Case(method, options, scenario, adapter)
        experiment = parse_config(case.text(), "contract.yaml")
        try:
            check(experiment, None)
        except ConfigError:
            continue
        yield case


def method_contract(
    *methods: str, options: Mapping[str, str] | None = None, weak: tuple[str, ...] = ()
) -> type[MethodContract]:
    """The contract of ``methods``, named as in a config, as a class of tests.

    ``options`` are a method's options in YAML, ``rank: 3``, by its name; without them it has its
    defaults. ``weak`` are methods that need not learn much where all tasks share a head.
    """
    cases = [c for name in methods for c in cases_of(name, (options or {}).get(name, ""))]
    return type("TestContract", (MethodContract,), {"cases": cases, "weak": weak})


class MethodContract:
    """The tests; each runs for every case, or for every method and scenario."""

    cases: ClassVar[list[Case]] = []
    weak: ClassVar[tuple[str, ...]] = ()

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "case" in metafunc.fixturenames:
            names = ["-".join(filter(None, (c.method, c.scenario, c.adapter))) for c in self.cases]
            metafunc.parametrize("case", self.cases, ids=names)
        if "plain" in metafunc.fixturenames:
            plain = [case for case in self.cases if case.adapter is None]
            metafunc.parametrize("plain", plain, ids=[f"{c.method}-{c.scenario}" for c in plain])

    def test_there_are_cases(self) -> None:
        assert self.cases, "the method is refused in every scenario"

    def test_what_is_recorded_and_that_it_is_the_same_again(
        self, tmp_path: Path, case: Case
    ) -> None:
        record = case.run(tmp_path / "one")
        result, kind = record.result, METHODS[case.method]
        matrix = result["accuracy_matrix"]
        assert [len(row) for row in matrix] == [3, 3, 3]
        measured = {(i, j) for i, j in product(range(3), repeat=2) if matrix[i][j] is not None}
        assert all(0.0 <= matrix[i][j] <= 1.0 for i, j in measured)

        # It learns: the task at hand is well above chance, which is 1/2 of a task's two classes,
        # and among all classes so far 1/2, 1/4 and 1/6.
        learned = [matrix[i][i] for i in range(3) if matrix[i][i] is not None]
        at_once = not any((i, j) in measured for i in range(2) for j in range(3))
        assert len(learned) == (1 if at_once else 3)
        if case.method not in self.weak or case.scenario == "task":
            least = 0.5 if case.scenario == "class" else 0.75
            assert sum(learned) / len(learned) > least, matrix

        # What was not measured is null: rows before the last of joint training, and the future of
        # a head that is not trained yet.
        past = {(i, j) for i in range(3) for j in range(i + 1)}
        next_task = {(i, i + 1) for i in range(2)}
        shared_answer = case.scenario == "domain" and not kind.private_heads
        if at_once:
            assert measured == {(2, j) for j in range(3)}
        elif shared_answer:
            assert measured == past | next_task
            assert all(0.0 <= b <= 1.0 for b in result["untrained_accuracy"])
        else:
            assert measured == past
        if at_once or not shared_answer:
            assert result["untrained_accuracy"] is None

        # What was taken for what gives the same accuracies as the matrix.
        assert confusion(result) is not None

        # An isolated method's earlier accuracies never move.
        if result["isolated"]:
            assert all(matrix[i][j] == matrix[j][j] for i, j in past)
        assert result["needs_task_id"] == (kind.private_heads and case.scenario != "task")
        # No method takes more steps than another: 120 samples a task, or 360 at once, in batches of
        # 16, four epochs.
        steps = {0: 0, 1: 0, 2: 0}
        for event, _ in read_events(record.folder):
            if event["event"] == "fit_started":
                steps[event["task"]] += event["steps"]
        assert max(steps.values()) <= (23 if at_once else 8) * 4

        cost = result["cost"]
        measured_always = [key for key in cost if "peak" not in key and "to_95" not in key]
        assert all(cost[key] is not None and cost[key] >= 0 for key in measured_always)
        assert cost["total_params"] > 0
        assert cost["stored_bytes"] > 0

        if case.adapter:  # Without one, cutting off and streaming compare more than two runs.
            again = case.run(tmp_path / "two")
            assert tensors_of(again.folder) == tensors_of(record.folder)
            assert again.result["accuracy_matrix"] == matrix
        self.answers_the_same_after_loading(record)

    def answers_the_same_after_loading(self, record: Record) -> None:
        answered = 0
        method = load_run(record.folder)
        for task_id in range(3):
            samples = method.benchmark.task(task_id).test()
            with method.view(task_id) as network:
                found = accuracy(network, samples.x, samples.y + network.offsets[task_id])
            if record.result["routing"] is None:
                assert found == record.result["accuracy_matrix"][2][task_id]
            answered += 1
        assert answered == 3

    def test_what_is_promised_holds_with_decay_and_momentum(
        self, tmp_path: Path, plain: Case
    ) -> None:
        """The run fails if the method calls itself isolated and an earlier task's bits move."""
        result = plain.run(tmp_path, SGD).result
        assert result["isolated"] in (True, False)

    def test_views_restore_what_they_show(self, case: Case) -> None:
        """Viewing a task changes no bit of the state, and shows the same bits every time."""
        method = learned_by_hand(case.text())
        before = {name: tensor.clone() for name, tensor in method.state_dict().items()}
        modules = len(list(method.network.modules()))
        answering = [task_id for task_id in range(2) if method.answers(task_id)]
        for task_id in answering * 2:
            with method.view(task_id) as network:
                first = fingerprint(network, {})
            with method.view(task_id) as network:
                assert fingerprint(network, {}) == first
        after = method.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert len(list(method.network.modules())) == modules

    def test_the_state_is_all_that_was_learned(self, case: Case) -> None:
        one, other = learned_by_hand(case.text()), made(case.text())
        state = {name: tensor.clone() for name, tensor in one.state_dict().items()}
        other.bank.update(one.bank)
        for task_id in range(2):
            other.begin(other.benchmark.task(task_id))
        other.load_state_dict(state)
        assert other.state_dict().keys() == state.keys()
        assert all(torch.equal(tensor, state[name]) for name, tensor in other.state_dict().items())
        answering = [task_id for task_id in range(2) if one.answers(task_id)]
        assert answering == [task_id for task_id in range(2) if other.answers(task_id)]
        for task_id in answering:
            x = one.benchmark.task(task_id).test().x
            with one.view(task_id) as network:
                network.eval()
                right = network(x).detach()
            with other.view(task_id) as network:
                network.eval()
                assert torch.equal(network(x), right)

    def test_cut_off_anywhere_it_ends_with_the_same_bytes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: Case
    ) -> None:
        run = one_run(f"{plain.label}: {{method: '{plain.method}'}}", plain.scenario)
        assert run is not None
        cut_and_compare(run, tmp_path, monkeypatch)

    def test_streamed_inputs_and_a_cached_frozen_prefix_give_the_same_bytes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: Case
    ) -> None:
        folder = plain.tiny(tmp_path / "whole", *WIDER)
        whole, learned = outcome(folder), learned_by(folder)
        uncached = learned_by(plain.tiny(tmp_path / "uncached", *WIDER, "cache=false"))
        assert uncached == learned
        assert len(learned) >= 4
        calls = []
        ahead = streaming.Streamed.ahead

        def watched(self: streaming.Streamed, rows: Any) -> Any:
            calls.append(1)
            return ahead(self, rows)

        monkeypatch.setattr(streaming.Streamed, "ahead", watched)
        streamed = outcome(plain.tiny(tmp_path / "streamed", *WIDER, "stream=true"))
        assert len(calls) >= 4  # At least three tasks are evaluated, and learned, maybe together.
        assert streamed["result"].pop("config") != whole["result"].pop("config")
        assert streamed == whole


def learned_by(folder: Path) -> dict[str, Any]:
    """Every tensor of a run by file and name, and its accuracies: all but the run's own name."""
    result = outcome(folder)["result"]
    matrices = {"matrix": result["accuracy_matrix"], "untrained": result["untrained_accuracy"]}
    return matrices | tensors_of(folder)


def tensors_of(folder: Path) -> dict[str, bytes]:
    """The bytes of every tensor of a run by file and name."""
    found = {}
    for file in sorted(folder.rglob("*.safetensors")):
        with safe_open(file, "numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                key = f"{file.relative_to(folder)}:{name}"
                found[key] = tensors.get_tensor(name).tobytes()
    return found
