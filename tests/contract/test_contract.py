"""What every registered method promises, in every scenario, with every adapter it takes."""

from __future__ import annotations

import itertools

import pytest
import torch

from lora_cl.benchmarks import SCENARIOS
from lora_cl.config import parse_config
from lora_cl.errors import ConfigError
from lora_cl.methods import METHODS, MemoryBank
from lora_cl.methods.shared import SharedBackbone
from lora_cl.models import fingerprint
from lora_cl.records.events import read_events
from lora_cl.records.folders import read_record
from lora_cl.running.preparation import check, prepare
from lora_cl.running.runner import Where, load_run, run_one
from lora_cl.training.loop import accuracy

ADAPTERS = (None, "lora", "dora", "qlora")
OPTIONS = {
    "lora": "rank: 3",
    "dora": "rank: 3",
    "qlora": "rank: 3",
    "seq_lora": "rank: 3",
    "o_lora": "rank: 3",
    "inflora": "rank: 3",
    "adalora": "rank: 4, target_rank: 2",
    "replay": "per_class: 10",
    "shared_private": "private_dim: 8",
    "ewc": "strength: 100.0",
    "si": "c: 0.5",
    "lwf": "weighting: fixed, strength: 0.2",
}
TRAINING = {
    "adam": "{epochs: 4, batch_size: 16, lr: 0.01, weight_decay: 0.001}",
    "sgd": "{epochs: 4, batch_size: 16, lr: 0.005, optimizer: sgd, momentum: 0.9, "
    "weight_decay: 0.01}",
}


def text_of(method: str, scenario: str, adapter: str | None, training: str = "adam") -> str:
    options = OPTIONS.get(method, "")
    if adapter:
        options += f"{', ' if options else ''}adapter: {{name: {adapter}, rank: 3}}"
    return (
        "name: contract\n"
        "benchmark: {name: split, tasks: 3, dataset: "
        "{name: synthetic, classes: 6, features: 12, separation: 5.0}}\n"
        f"scenario: {scenario}\n"
        "model: {name: mlp, hidden: [24, 16]}\n"
        f"train: {TRAINING[training]}\n"
        f"methods: {{{method}: {{{options}}}}}\n"
    )


def allowed(method: str, scenario: str, adapter: str | None) -> bool:
    if adapter and "adapter" not in METHODS[method].Options.model_fields:
        return False
    try:
        check(parse_config(text_of(method, scenario, adapter), "t"), None)
    except ConfigError:
        return False
    return True


CASES = [case for case in itertools.product(METHODS, SCENARIOS, ADAPTERS) if allowed(*case)]


def test_how_many_cases_there_are():
    assert len(METHODS) == 18
    adaptable = [m for m in METHODS if "adapter" in METHODS[m].Options.model_fields]
    assert sorted(adaptable) == ["ewc", "full", "lwf", "replay", "si"]
    assert all(issubclass(METHODS[method], SharedBackbone) for method in adaptable)
    plain = {(method, scenario) for method, scenario, adapter in CASES if adapter is None}
    assert plain == set(itertools.product(METHODS, SCENARIOS))
    assert len(CASES) == 18 * 3 + len(adaptable) * 3 * 3 == 99


def run_case(tmp_path, name: str, method: str, scenario: str, adapter, training="adam"):
    experiment = parse_config(text_of(method, scenario, adapter, training), "t")
    (run,) = prepare(experiment, None, print)
    where = Where(tmp_path / name)
    outcome = run_one(run, where)
    assert outcome.status == "done", outcome.message
    return read_record(where.results / run.folder)


@pytest.mark.parametrize(("method", "scenario", "adapter"), CASES)
def test_contract(tmp_path, method, scenario, adapter):
    record = run_case(tmp_path, "one", method, scenario, adapter)
    result = record.result
    matrix = result["accuracy_matrix"]
    assert [len(row) for row in matrix] == [3, 3, 3]

    # It learns: the task at hand is well above chance, which is 1/2 of a task's two classes, and
    # among all classes so far 1/2, 1/4 and 1/6.
    measured = [(i, j) for i in range(3) for j in range(3) if matrix[i][j] is not None]
    assert all(0.0 <= matrix[i][j] <= 1.0 for i, j in measured)
    learned = [matrix[i][i] for i in range(3) if matrix[i][i] is not None]
    if method != "frozen" or scenario == "task":
        assert sum(learned) / len(learned) > (0.5 if scenario == "class" else 0.75), matrix
    assert len(learned) == (1 if method == "joint" else 3)

    # What was not measured is null: rows before the last of joint training, the future of a
    # head that is not trained yet.
    past = {(i, j) for i in range(3) for j in range(i + 1)}
    next_task = {(i, i + 1) for i in range(2)}
    if method == "joint":
        assert set(measured) == {(2, j) for j in range(3)}
        assert result["untrained_accuracy"] is None
    elif scenario == "domain" and not METHODS[method].private_heads:
        assert set(measured) == past | next_task
        assert all(0.0 <= b <= 1.0 for b in result["untrained_accuracy"])
    else:
        assert set(measured) == past
        assert result["untrained_accuracy"] is None

    # An isolated method's earlier accuracies never move.
    if result["isolated"]:
        assert all(matrix[i][j] == matrix[j][j] for i, j in past)
    assert result["needs_task_id"] == (METHODS[method].private_heads and scenario != "task")

    # No method takes more steps than another: 120 samples a task in batches of 16, four epochs.
    steps = {0: 0, 1: 0, 2: 0}
    for event, _ in read_events(record.folder):
        if event["event"] == "fit_started":
            steps[event["task"]] += event["steps"]
    joint = method == "joint"
    assert steps == {0: 0, 1: 0, 2: 23 * 4} if joint else steps == dict.fromkeys(range(3), 8 * 4)

    cost = result["cost"]
    assert all(cost[key] is not None and cost[key] >= 0 for key in cost if "peak" not in key)
    assert cost["total_params"] > 0
    assert cost["stored_bytes"] > 0

    # The same config and seed: the same bytes.
    again = run_case(tmp_path, "two", method, scenario, adapter)
    compared = 0
    for path in sorted(record.folder.rglob("*.safetensors")):
        other = again.folder / path.relative_to(record.folder)
        assert path.read_bytes() == other.read_bytes(), path.name
        compared += 1
    assert compared >= 1
    assert again.result["accuracy_matrix"] == matrix

    # Loaded back, every task is answered as it was.
    method_again = load_run(record.folder)
    answered = 0
    for task_id in range(3):
        samples = method_again.benchmark.task(task_id).test()
        with method_again.view(task_id) as network:
            found = accuracy(network, samples.x, samples.y + network.offsets[task_id])
        if result["routing"] is None:
            assert found == matrix[2][task_id]
        answered += 1
    assert answered == 3


ISOLATED = [
    (method, scenario, training)
    for method, scenario, training in itertools.product(METHODS, SCENARIOS, TRAINING)
    if METHODS[method].private_heads or method == "frozen"
]


@pytest.mark.parametrize(("method", "scenario", "training"), ISOLATED)
def test_isolated_methods_keep_their_promise_bit_for_bit(tmp_path, method, scenario, training):
    """The session raises BrokenPromiseError otherwise; decay and momentum are on."""
    record = run_case(tmp_path, "run", method, scenario, None, training)
    isolated = record.result["isolated"]
    if method == "frozen":
        assert isolated == (scenario == "task")
    elif method == "shared_private":
        assert not isolated
    else:
        assert isolated
    assert len(ISOLATED) == 54


@pytest.mark.parametrize(("method", "scenario", "adapter"), CASES)
def test_views_restore_what_they_show(method, scenario, adapter):
    """Viewing a task changes no bit of the state, and shows the same bits every time."""
    method_made = learned_by_hand(method, scenario, adapter)
    before = {name: tensor.clone() for name, tensor in method_made.state_dict().items()}
    modes = [module.training for module in method_made.network.modules()]
    for task_id in (0, 1, 0):
        with method_made.view(task_id) as network:
            first = fingerprint(network, {})
        with method_made.view(task_id) as network:
            assert fingerprint(network, {}) == first
    after = method_made.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert len(modes) == len(list(method_made.network.modules()))


@pytest.mark.parametrize(("method", "scenario", "adapter"), CASES)
def test_state_dict_round_trip_mid_sequence(method, scenario, adapter):
    one = learned_by_hand(method, scenario, adapter)
    state = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    other = made(method, scenario, adapter)
    other.bank.update(one.bank)
    for task_id in range(2):
        other.begin(other.benchmark.task(task_id))
    other.load_state_dict(state)
    assert other.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in other.state_dict().items())
    for task_id in range(2):
        x = one.benchmark.task(task_id).test().x
        with one.view(task_id) as network:
            network.eval()
            right = network(x).detach()
        with other.view(task_id) as network:
            network.eval()
            assert torch.equal(network(x), right)


def made(method: str, scenario: str, adapter: str | None):
    """A method on its base network, before the first task."""
    from lora_cl.models import build_network
    from lora_cl.running.runner import make_benchmark

    config = parse_config(text_of(method, scenario, adapter), "t").config
    benchmark = make_benchmark(config, 0, torch.device("cpu"), None)
    (options,) = config.methods.values()
    result = METHODS[options.method](options)
    network = build_network(config.model, benchmark.input_shape, seed=5)
    result.setup(network, benchmark, seed=0, bank=MemoryBank())
    return result


def learned_by_hand(method: str, scenario: str, adapter: str | None):
    """Two of three tasks learned with a loop of a few plain steps in place of the trainer."""
    result = made(method, scenario, adapter)

    def fit(tasks, *, start=0.0, end=1.0):
        with result.view_together(tasks) as network:
            samples = [task.train() for task in tasks]
            result.start_fit(tasks, network)
            parameters = [p for group in result.param_groups() for p in group["params"]]
            for step in range(1, 4):
                for parameter in parameters:
                    parameter.grad = None
                x = torch.cat([s.x[:20] for s in samples])
                y = torch.cat(
                    [s.y[:20] + network.offsets[t.id] for t, s in zip(tasks, samples, strict=True)]
                )
                loss = result.loss(network, x, y)
                penalty = result.penalty()
                (loss if penalty is None else loss + penalty).backward()
                result.after_backward()
                with torch.no_grad():
                    for parameter in parameters:
                        if parameter.grad is not None:
                            parameter -= 0.05 * parameter.grad
                result.after_step(step, 3)

    for task_id in range(2):
        task = result.benchmark.task(task_id)
        result.begin(task)
        result.learn(task, fit)
    return result
