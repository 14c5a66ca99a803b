"""What answers is a choice of every method, apart from how it learns its features."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from method_cases import MLP, fit_of, learn_with, run_one, seen, set_up, tiny
from torch import Tensor
from torch.nn import functional

import lora_cl
from lora_cl.errors import ConfigError
from lora_cl.methods import METHODS, Method
from lora_cl.methods.means import NearestMean, shrinkage
from lora_cl.methods.ranpac import RandomProjection
from lora_cl.methods.slda import SharedCovariance
from lora_cl.running.preparation import check

SHARED = sorted(name for name in METHODS if not METHODS[name].private_heads and name != "merged")
"""Those of one backbone and, if they like, one head; `merged` has those of its adapters."""
SMALL = {"ranpac": "{name: ranpac, width: 40}"}


def made(method: str, classifier: str, scenario: str = "class") -> Method:
    answer = SMALL.get(classifier, classifier)
    return set_up(tiny(f"{method}: {{classifier: {answer}}}", scenario))


def learn(method: Method, tasks: list[int]) -> None:
    learn_with(method, tasks, fit_of(method))


def test_what_a_method_has_without_a_choice() -> None:
    found = {
        (name, scenario): set_up(tiny(f"{name}: {{}}", scenario)).classifier
        for name in ("full", "lora")
        for scenario in ("task", "domain", "class")
    }
    assert found == {
        ("full", "task"): "local",
        ("full", "domain"): "joint",
        ("full", "class"): "joint",
        **{("lora", scenario): "local" for scenario in ("task", "domain", "class")},
    }


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("classifier", ["local", "ncm", "slda", "ranpac"])
def test_every_method_that_shares_a_backbone_has_every_classifier(
    name: str, classifier: str, tmp_path: Path
) -> None:
    answer = SMALL.get(classifier, classifier)
    text = f"{name}: {{classifier: {answer}}}"
    one = tiny(text, "class", train="lr: 0.01", data="separation: 5.0")
    record = run_one(one, tmp_path)
    assert record.result["classifier"] == classifier
    last = record.result["accuracy_matrix"][-1]
    if name in ("frozen", "joint") and classifier != "local":
        assert sum(last) / 3 > 0.5  # Statistics of features that did not move know all classes.
    method = lora_cl.load_run(record.folder)
    for task_id in range(3):
        samples = method.benchmark.task(task_id).test()
        with method.view(task_id) as network:
            network.eval()
            logits = network(samples.x)
        assert logits.shape[1] == 6
        right = logits.argmax(1).eq(samples.y + 2 * task_id).float().mean()
        assert float(right) == pytest.approx(last[task_id])


def test_classes_to_come_compete_and_are_pushed_down() -> None:
    """-log softmax_y over all six outputs; of the four to come the bias falls by rate p_c."""
    method = made("full", "all-classes")
    task = method.benchmark.task(0)
    method.begin(task)
    samples = task.train()
    with method.view_together([task]) as network:
        logits = network(samples.x)
        assert logits.shape == (len(samples.y), 6)
        method.loss(network, samples.x, samples.y).backward()
    head = method.head(0)
    p = logits.detach().softmax(1).mean(0)
    assert head.bias.grad is not None
    torch.testing.assert_close(head.bias.grad[2:], p[2:])
    assert method._outputs_to_come() == 0
    so_far = made("full", "joint")
    so_far.begin(task)
    with so_far.view_together([task]) as network:
        so_far.loss(network, samples.x, samples.y).backward()
        assert network(samples.x).shape[1] == 2
    assert torch.count_nonzero(so_far.head(0).bias.grad[2:]) == 0


@pytest.mark.parametrize("name", SHARED)
def test_every_method_that_shares_a_backbone_trains_all_classes(name: str, tmp_path: Path) -> None:
    record = run_one(tiny(f"{name}: {{classifier: all-classes}}", "class"), tmp_path)
    assert record.result["classifier"] == "all-classes"
    method = lora_cl.load_run(record.folder)
    with method.view(0) as network:
        network.eval()
        assert network(method.benchmark.task(0).test().x).shape[1] == 6


def test_what_is_distilled_is_of_all_classes() -> None:
    """The old model's outputs for classes that it had not seen are held, too."""
    found = {}
    for classifier in ("joint", "all-classes"):
        method = made("lwf", classifier)
        learn(method, [0])
        method.begin(method.benchmark.task(1))
        with method.view_together([method.benchmark.task(1)]) as network:
            method.start_fit([method.benchmark.task(1)], network)
        found[classifier] = method.teacher_logits(method.benchmark.task(1).train().x).shape[1]
    assert found == {"joint": 2, "all-classes": 6}


def test_predictions_name_all_classes_before_all_are_learned() -> None:
    method = made("full", "all-classes")
    learn(method, [0])
    found = method.predict(method.benchmark.task(0).test().x)
    assert found.probabilities.shape[1] == 6
    assert set(found.labels) <= {str(label) for label in range(6)}


@pytest.mark.parametrize("name", ["full", "ewc", "si", "lwf", "replay", "inflora"])
def test_a_local_classifier_learns_as_a_task_incremental_run_does(name: str) -> None:
    """The same features to the bit: only what answers afterwards is another."""
    local, given = made(name, "local"), set_up(tiny(f"{name}: {{}}", "task"))
    states = []
    for method in (local, given):
        learn(method, [0, 1, 2])
        states.append({k: v.clone() for k, v in method.state_dict().items()})
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    x = local.benchmark.task(0).test().x
    with local.view(0) as network:
        logits = network(x)
        assert network.offsets == {0: 0, 1: 2, 2: 4}
    parts = []
    for task_id in range(3):
        with given.view(task_id) as network:
            parts.append(network(x))
    torch.testing.assert_close(logits, torch.cat(parts, dim=1))


def test_the_loss_of_a_local_classifier_is_among_the_classes_of_the_task() -> None:
    method = made("full", "local")
    learn(method, [0])
    task = method.benchmark.task(1)
    method.begin(task)
    samples = task.train()
    with method.view_together([task]) as network:
        loss = method.loss(network, samples.x, samples.y + network.offsets[1])
        own = method.head(1)(method.network.backbone(samples.x))
    torch.testing.assert_close(loss, functional.cross_entropy(own, samples.y))


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
@pytest.mark.parametrize("classifier", ["ncm", "slda", "ranpac"])
def test_statistics_are_of_the_features_when_a_task_is_learned(
    classifier: str, scenario: str
) -> None:
    method = made("full", classifier, scenario)
    h: list[tuple[Tensor, Tensor]] = []
    for task_id in range(2):
        learn(method, [task_id])
        samples = method.benchmark.task(task_id).train()
        with torch.no_grad():
            features = method.network.backbone.eval()(samples.x)
        h.append((features, samples.y + (2 * task_id if scenario == "class" else 0)))
    x = method.benchmark.task(1).test().x
    with method.view(1) as network, torch.no_grad():
        network.eval()
        found = network(x)
        kind = {"ncm": NearestMean, "slda": SharedCovariance, "ranpac": RandomProjection}[
            classifier
        ]
        assert isinstance(network.heads[0], kind)
        f = network.backbone(x)
    parts = h[1:] if scenario == "task" else h
    features, y = torch.cat([f for f, _ in parts]), torch.cat([y for _, y in parts])
    if classifier == "ncm":
        means = torch.stack([features[y == c].mean(0) for c in range(int(y.max()) + 1)])
        expected = f @ means.T - means.square().sum(1) / 2
    elif classifier == "slda":
        exact = features.double()
        means = torch.stack([exact[y == c].mean(0) for c in range(int(y.max()) + 1)])
        S = (exact - means[y]).T @ (exact - means[y]) / len(y)
        rho, d = shrinkage(S, len(y)), len(S)
        assert 0.01 < rho < 0.5
        w = torch.linalg.solve((1 - rho) * S + rho * S.trace() / d * torch.eye(d), means.T)
        expected = (f.double() @ w - (means.T * w).sum(0) / 2).float()
    else:
        answer = network_of(method, 1)
        phi = torch.relu(features @ answer.projection).double()
        G = phi.T @ phi + float(answer.ridge) * torch.eye(40).double()
        w = torch.linalg.solve(G, phi.T @ functional.one_hot(y).double())
        expected = (torch.relu(f @ answer.projection).double() @ w).float()
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def network_of(method: Method, task_id: int) -> RandomProjection:
    answer = method.network.get_submodule("answers").get_submodule(method.head_name(task_id))
    assert isinstance(answer, RandomProjection)
    return answer


def test_on_a_frozen_base_nothing_is_trained_and_earlier_answers_stay() -> None:
    for classifier in ("ncm", "slda", "ranpac"):
        method = made("frozen", classifier, "task")
        assert method.isolated
        learn(method, [0])
        before = seen(method, 0)
        assert method.trained_parameters() == 0
        learn(method, [1])
        assert seen(method, 0) == before
        assert not list(method.network.heads)
        assert method.total_parameters() == sum(p.numel() for p in method.network.parameters())


def test_a_head_that_only_taught_is_stored_and_not_needed() -> None:
    plain, ncm = set_up(tiny("full: {}", "class")), made("full", "ncm")
    for method in (plain, ncm):
        learn(method, [0])
    head = sum(p.numel() for p in ncm.head(0).parameters())
    assert head == 16 * 6 + 6
    # Of the plain head the two outputs seen so far are needed.
    assert plain.total_parameters() - ncm.total_parameters() == 2 * 17
    # Six sums of 16 features, and six counts.
    assert ncm.stored_bytes() - plain.stored_bytes() == 6 * (16 * 4 + 8)


def test_a_domain_incremental_run_answers_once_it_has_statistics(tmp_path: Path) -> None:
    result = run_one(tiny("full: {classifier: ncm}", "domain"), tmp_path).result
    assert result["untrained_accuracy"] is None
    assert [value is None for value in result["accuracy_matrix"][0]] == [False, False, True]


@pytest.mark.parametrize(
    ("method", "scenario", "told"),
    [
        ("lora: {classifier: ncm}", "class", "methods.lora: classifier ncm is for methods whose"),
        ("pnn: {classifier: joint}", "domain", "methods.pnn: classifier joint is for methods who"),
        ("full: {classifier: local}", "domain", "classifier local has no meaning in a domain-inc"),
        ("merged: {classifier: ncm}", "class", "merged answers with the heads that its adapters"),
        ("full: {classifier: joint}", "task", "classifier joint has no meaning in a task-increm"),
        (
            "full: {classifier: all-classes}",
            "task",
            "classifier all-classes has no meaning in a task",
        ),
        (
            "full: {classifier: all-classes}",
            "domain",
            "classifier all-classes has no meaning in a dom",
        ),
    ],
)
def test_what_no_run_can_mean_is_refused(method: str, scenario: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check(tiny(method, scenario), None)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_one_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        tiny("full: {classifier: ranpack}")
    assert "methods.full.classifier: nothing here is called 'ranpack' (did you mean 'ranpac'?)" in (
        str(caught.value)
    )


def test_a_table_of_several_classifiers_names_them(tmp_path: Path) -> None:
    text = (
        "full: {}, ncm: {method: frozen, classifier: ncm}, mine: {method: full, classifier: local}"
    )
    lora_cl.run(tiny(text, "class", MLP), results=tmp_path, jobs=0, progress=False)
    from lora_cl.records.folders import load_records
    from lora_cl.report import aggregate, render

    table = render(aggregate(load_records([tmp_path])))
    lines = [line.split("  ")[0] for line in table.splitlines()]
    assert [line for line in lines if line.startswith(("full", "ncm", "mine"))] == [
        "full",
        "ncm",
        "mine (local)",
    ]
    assert "(ncm), (local): the classifier; without, one trained on all classes so far." in table
