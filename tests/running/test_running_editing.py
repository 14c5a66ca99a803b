"""Banks made of a run's: with an adapter that real PEFT trained, or without one of its own."""

from __future__ import annotations

import json
import shutil
import struct
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from process_cases import ask
from safetensors.torch import load_file, save_file
from text_cases import WORDS, save_model, save_texts
from torch import Tensor

import lora_cl
from lora_cl.errors import LoraClError, MethodError, ResultsError
from lora_cl.models import Origin
from lora_cl.running.importing import _require_base
from lora_cl.running.making import make_benchmark
from lora_cl.testing.runs import run_done

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", FutureWarning)
    peft = pytest.importorskip("peft")

CONFIG = """
name: editing
benchmark: {benchmark}
model: {model}
train: {{iterations: 3, batch_size: 8, lr: 0.02}}
methods: {{it: {{method: {method}}}}}
"""
NUMBERS = "{name: split, tasks: 3, dataset: {name: synthetic, classes: 6, features: 12}}"
IMAGES = (
    "{name: split, tasks: 2, max_train_samples: 40, max_test_samples: 10, "
    "dataset: {name: synthetic, classes: 4, shape: [3, 16, 16], train_per_class: 20}}"
)
MLP = "{name: mlp, hidden: [10, 8]}"
NETWORKS = {
    "mlp": (MLP, NUMBERS),
    "cnn": ("{name: cnn, channels: [4, 6], hidden: 8}", IMAGES),
    "vit": ("{name: vit, width: 16, depth: 1, heads: 2, patch: 4}", IMAGES),
    "timm": ("{name: timm, model: test_resnet, size: 32}", IMAGES),
}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora, rank: 4", {"r": 4, "lora_alpha": 16}),
    "smaller": ("lora, rank: 4", {"r": 3, "lora_alpha": 5}),
    "rslora": ("lora, rank: 4, scaling: rslora", {"r": 4, "lora_alpha": 16, "use_rslora": True}),
    "dora": ("dora, rank: 4", {"r": 2, "lora_alpha": 8, "use_dora": True}),
    "adalora": (
        "adalora, rank: 3, target_rank: 2, every: 1",
        {"init_r": 3, "lora_alpha": 16, "target_r": 2, "total_step": 9},
    ),
}


def done(place: Path, model: str, benchmark: str, method: str) -> Path:
    return run_done(CONFIG.format(model=model, benchmark=benchmark, method=method), place / "runs")


def trained(base: Any, kind: str, targets: Any, head: str | None, folder: Path) -> Any:
    """An adapter that PEFT made, moved off its start as by training, saved by PEFT."""
    options: dict[str, Any] = {**KINDS[kind][1], "target_modules": targets}
    options["modules_to_save"] = [head] if head else None
    made = peft.AdaLoraConfig if kind == "adalora" else peft.LoraConfig
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        theirs = peft.get_peft_model(base, made(**options)).eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape), alpha=0.3)
    theirs.save_pretrained(folder)
    return theirs


def layers(run: Path) -> list[str]:
    """What PEFT calls the layers that the run adapts."""
    folder = run.parent / "names"
    lora_cl.export_adapter(run, 0, folder)
    targets = json.loads((folder / "adapter_config.json").read_text())["target_modules"]
    shutil.rmtree(folder)
    return list(targets)


CASES = [
    (model, kind)
    for model in NETWORKS
    for kind in KINDS
    if model == "mlp" or kind in ("lora", "dora") or (model, kind) == ("cnn", "adalora")
]


def test_number_of_cases() -> None:
    assert len(CASES) == 12


@pytest.mark.parametrize(("model", "kind"), CASES)
def test_what_peft_trained_answers_the_same_here(model: str, kind: str, tmp_path: Path) -> None:
    run = done(tmp_path, *NETWORKS[model], KINDS[kind][0])
    base = lora_cl.load_base(run, 0)
    head = "fc" if model == "timm" else "head"
    theirs = trained(base, kind, layers(run), head, tmp_path / "theirs")
    before = lora_cl.load_run(run)
    x = before.benchmark.task(0).test().x[:5]
    with torch.inference_mode(), before.view(0) as network:
        first = network(x).clone()
    target = tmp_path / "bank"
    code, _, err = ask(
        "adapters", "import", run, tmp_path / "theirs", "--classes", "cat, dog", "-o", target
    )
    task = before.benchmark.n_tasks
    assert (code, err) == (0, f"written to {target}, as task {task}\n")
    method = lora_cl.load_run(target)
    inputs = method.network.backbone.images(x) if model == "timm" else x
    with torch.inference_mode(), method.view(task) as network:
        expected = theirs(inputs)
        near = 1e-5 * float(expected.abs().max().clamp_min(1.0))
        torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=near)
    with torch.inference_mode(), method.view(0) as network:
        assert torch.equal(network(x), first)
    assert set(method.predict(x, task=task).labels) <= {"cat", "dog"}
    with pytest.raises(LoraClError, match="is not of the run's config"):
        method.benchmark.task(task)
    # And from the bank, away again.
    lora_cl.export_adapter(target, task, tmp_path / "again")
    again = peft.PeftModel.from_pretrained(lora_cl.load_base(run, 0), tmp_path / "again").eval()
    with torch.inference_mode():
        torch.testing.assert_close(again(inputs), expected, rtol=1e-5, atol=near)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_what_peft_trained_on_a_text_network_answers_the_same_here(
    kind: str, tmp_path: Path
) -> None:
    place = save_model(tmp_path / "bert")
    texts = save_texts(tmp_path / "texts.csv")
    run = done(
        tmp_path,
        f"{{name: transformers, model: '{place}', max_length: 16}}",
        f"{{name: split, tasks: 2, dataset: {{name: text, path: '{texts}'}}}}",
        KINDS[kind][0],
    )
    base = transformers.AutoModel.from_pretrained(place)
    theirs = trained(base, kind, layers(run), None, tmp_path / "theirs")
    head = {"weight": torch.randn(2, 16), "bias": torch.randn(2)}
    save_file(head, tmp_path / "theirs" / "head.safetensors")
    lora_cl.import_adapter(run, tmp_path / "theirs", tmp_path / "bank", classes=["no", "yes"])
    sentences = [" ".join(WORDS[(k + j) % len(WORDS)] for j in range(3 + k)) for k in range(6)]
    tokens = transformers.AutoTokenizer.from_pretrained(place)(
        sentences, padding=True, return_tensors="pt"
    )
    tokens.pop("token_type_ids", None)
    with torch.inference_mode():
        there = tokens["attention_mask"].unsqueeze(2)
        hidden: Tensor = theirs(**tokens).last_hidden_state
        features = (hidden * there).sum(1) / there.sum(1)
        expected = torch.softmax(features @ head["weight"].T + head["bias"], dim=1)
    found = lora_cl.load_bank(tmp_path / "bank").predict(sentences, 2)
    torch.testing.assert_close(found.probabilities, expected, rtol=1e-5, atol=1e-5)


def test_a_base_of_another_name(tmp_path: Path) -> None:
    """Shapes may agree: names on the hub do not. In a folder anything may lie."""
    of_hub = Origin("transformers", "one/MiniLM", "", "")
    for same in (None, "one/MiniLM", "other/MiniLM", str(tmp_path)):
        _require_base(same, of_hub, tmp_path)
    _require_base("one/bert", None, tmp_path)
    with pytest.raises(ResultsError, match="is of the base one/bert, and the run of one/MiniLM"):
        _require_base("one/bert", of_hub, tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return done(tmp_path_factory.mktemp("run"), MLP, NUMBERS, "lora, rank: 4")


@pytest.fixture
def theirs(run: Path, tmp_path: Path) -> Path:
    base = lora_cl.load_base(run, 0)
    trained(base, "lora", ["backbone.linear1", "backbone.linear2"], "head", tmp_path / "theirs")
    return tmp_path / "theirs"


def test_a_bank_without_a_task(run: Path, tmp_path: Path) -> None:
    code, _, err = ask("adapters", "remove", run, "--task", "1", "-o", tmp_path / "bank")
    assert (code, err) == (0, f"written to {tmp_path / 'bank'}\n")
    whole, rest = lora_cl.load_run(run), lora_cl.load_run(tmp_path / "bank")
    x = whole.benchmark.task(2).test().x
    for task in (0, 2):
        assert whole.uses(task, {}) == rest.uses(task, {})
        with torch.inference_mode(), whole.view(task) as one, rest.view(task) as other:
            assert torch.equal(one(x), other(x))
    with pytest.raises(MethodError, match="task 1 has no view; tasks that have one: 0, 2"):
        rest.predict(x, task=1)
    code, out, _ = ask("adapters", "list", tmp_path / "bank")
    assert [line.split()[0] for line in out.splitlines()] == ["task", "0", "2"]
    lora_cl.remove_adapter(tmp_path / "bank", 0, tmp_path / "one")
    with pytest.raises(MethodError, match="task 2 is the only one"):
        lora_cl.remove_adapter(tmp_path / "one", 2, tmp_path / "none")
    # No table counts it, and no run of the same name is kept from being done.
    assert len(lora_cl.load_results(run.parents[2])) == 1
    assert ask("compare", tmp_path / "bank")[0] != 0


def config_of(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def tensors_of(folder: Path, change: Any) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


LINEAR = "base_model.model.backbone.linear1.lora_A.weight"
HEAD_WEIGHT = "base_model.model.head.weight"


def hostile(folder: Path) -> None:
    """A header that promises more than any memory holds."""
    path = folder / "adapter_model.safetensors"
    header = json.dumps({LINEAR: {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 4]}})
    path.write_bytes(struct.pack("<Q", len(header)) + header.encode() + b"\0" * 4)


WRONG: list[tuple[Any, str]] = [
    (lambda f: (f / "adapter_config.json").unlink(), "adapter_config.json: is missing"),
    (lambda f: (f / "adapter_model.safetensors").unlink(), "no such file"),
    (lambda f: (f / "adapter_config.json").write_text("{"), "is not a whole JSON file"),
    (lambda f: (f / "adapter_config.json").write_text("[]"), "is not PEFT's config"),
    (lambda f: (f / "adapter_model.safetensors").write_bytes(b"x" * 40), "not a safetensors file"),
    (lambda f: (f / "adapter_model.safetensors").write_bytes(b"\xff" * 64), "not a safetensors"),
    (hostile, "not a safetensors file"),
    (lambda f: config_of(f, peft_type="IA3"), "IA3"),
    (lambda f: config_of(f, r=3), "does not fit rank 3"),
    (lambda f: config_of(f, use_dora=True), "lora_magnitude_vector is missing"),
    (lambda f: tensors_of(f, lambda t: {k: v for k, v in t.items() if "head" not in k}), "no head"),
    (
        lambda f: tensors_of(f, lambda t: {k: v for k, v in t.items() if "linear2" not in k}),
        "does not adapt linear2",
    ),
    (
        lambda f: tensors_of(f, lambda t: {k.replace("linear1", "other"): v for k, v in t.items()}),
        "is of another base, or other targets: it adapts other",
    ),
    (
        lambda f: tensors_of(f, lambda t: {**t, LINEAR: torch.zeros(4, 13)}),
        "is of another base: linear1 is 10 x 13 there, and 10 x 12 in the run",
    ),
    (
        lambda f: tensors_of(f, lambda t: {**t, LINEAR: torch.full((4, 12), torch.nan)}),
        "holds a NaN",
    ),
    (lambda f: tensors_of(f, lambda t: {**t, "x": torch.zeros(1)}), "'x' is no tensor of PEFT's"),
    (
        lambda f: tensors_of(f, lambda t: {k: torch.zeros(()) for k in t}),
        "linear1 does not fit rank 4: lora_A.weight (), lora_B.weight ()",
    ),
    (
        lambda f: tensors_of(f, lambda t: {**t, HEAD_WEIGHT: torch.zeros(())}),
        "takes no 8 features",
    ),
    (
        lambda f: tensors_of(f, lambda t: {k: v.to(torch.int8) for k, v in t.items()}),
        "is of int8; floating point is needed",
    ),
    (
        lambda f: tensors_of(
            f,
            lambda t: {
                k: v[:, :-1].clone() if k.endswith("head.weight") else v for k, v in t.items()
            },
        ),
        "takes no 8 features",
    ),
]


@pytest.mark.parametrize(("spoil", "said"), WRONG, ids=[said[:30] for _, said in WRONG])
def test_what_does_not_fit_is_a_line_and_leaves_nothing(
    spoil: Any, said: str, run: Path, theirs: Path, tmp_path: Path
) -> None:
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    spoil(theirs)
    code, out, err = ask(
        "adapters", "import", run, theirs, "--classes", "a,b", "-o", tmp_path / "bank"
    )
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "bank").exists()
    assert before == {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}


@pytest.mark.parametrize("write", ["import", "add", "export", "remove"])
def test_nothing_is_written_into_a_run(write: str, run: Path, theirs: Path, tmp_path: Path) -> None:
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    (tmp_path / "more.yaml").write_text(ONE_MORE.format(tasks=1, classes=4, features=12))
    words = {
        "import": [theirs, "--classes", "a,b"],
        "add": ["--task", tmp_path / "more.yaml"],
        "export": ["--task", "0"],
        "remove": ["--task", "0"],
    }[write]
    code, out, err = ask("adapters", write, run, *words, "-o", run / "adapters" / "inside")
    assert (code, out) == (2, "")
    assert err.endswith(f"lies in {run}, a run, and nothing is written there\n")
    assert before == {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert not (run / "adapters" / "inside").exists()


def test_other_kinds_ranks_and_counts_of_classes(run: Path, theirs: Path, tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="has 2 outputs, and 3 classes are named"):
        lora_cl.import_adapter(run, theirs, tmp_path / "x", classes=["a", "b", "c"])
    for classes in (["a", "a"], ["a", ""]):
        with pytest.raises(ResultsError, match="each needs a name of its own"):
            lora_cl.import_adapter(run, theirs, tmp_path / "x", classes=classes)
    small = done(tmp_path, MLP, NUMBERS, "lora, rank: 2")
    with pytest.raises(ResultsError, match="has rank 4, and the run 2"):
        lora_cl.import_adapter(small, theirs, tmp_path / "x", classes=["a", "b"])
    dora = done(tmp_path, MLP, NUMBERS, "dora, rank: 4")
    with pytest.raises(ResultsError, match="holds lora, and the run dora"):
        lora_cl.import_adapter(dora, theirs, tmp_path / "x", classes=["a", "b"])
    assert not (tmp_path / "x").exists()


ONE_MORE = """
name: more
benchmark: {{name: split, tasks: {tasks}, dataset: {{name: synthetic, classes: {classes},
  features: {features}, separation: 5.0}}}}
model: {{name: mlp, hidden: [3]}}
train: {{epochs: 6, batch_size: 16, lr: 0.02}}
methods: {{full: {{}}}}
"""


@pytest.mark.parametrize("method", ["lora, rank: 4", "adalora, rank: 3, target_rank: 2, every: 1"])
def test_one_more_task_moves_nothing_before_it(method: str, tmp_path: Path) -> None:
    run = done(tmp_path, MLP, NUMBERS, method)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    (tmp_path / "more.yaml").write_text(ONE_MORE.format(tasks=1, classes=4, features=12))
    for name in ("bank", "again"):
        code, _, err = ask(
            "adapters", "add", run, "--task", tmp_path / "more.yaml", "-o", tmp_path / name
        )
        assert code == 0, err
        assert err.startswith(f"written to {tmp_path / name}, as task 3: test accuracy ")
    assert before == {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    accuracy = float(err.split()[-2])
    assert accuracy > 60  # Of four classes.
    whole, more = lora_cl.load_run(run), lora_cl.load_run(tmp_path / "bank")
    assert [whole.uses(k, {}) for k in range(3)] == [more.uses(k, {}) for k in range(3)]
    # The same again, to the bit.
    assert more.uses(3, {}) == lora_cl.load_run(tmp_path / "again").uses(3, {})
    assert more.benchmark.class_names(3) == ["0", "1", "2", "3"]
    code, out, _ = ask("adapters", "list", tmp_path / "bank")
    assert float(out.splitlines()[4].split()[-5]) == accuracy


def test_the_router_knows_the_task_that_was_added(tmp_path: Path) -> None:
    text = CONFIG.format(benchmark=NUMBERS, model=MLP, method="lora, router: mahalanobis")
    run = run_done(text.replace("train:", "scenario: class\ntrain:"), tmp_path / "runs")
    more = lora_cl.parse_config(ONE_MORE.format(tasks=1, classes=4, features=12), "more.yaml")
    lora_cl.add_task(run, more, tmp_path / "bank")
    before, after = lora_cl.load_run(run), lora_cl.load_run(tmp_path / "bank")
    assert set(after.kept) == {*before.kept, "prototypes.3"}
    assert after.kept["prototypes.3"].shape == (4, before.network.features)
    assert after.kept["scatter.samples"] > before.kept["scatter.samples"]
    x = make_benchmark(more.config, 0, torch.device("cpu"), None).task(0).test().x
    tasks = after.predict(x).tasks
    assert tasks is not None
    assert 0.3 < float((tasks == 3).float().mean()) <= 1.0


@pytest.mark.parametrize(
    ("tasks", "features", "said"),
    [(2, 12, "has 2 tasks; one is added"), (1, 9, "has inputs of (9,), the run of (12,)")],
)
def test_a_task_that_does_not_fit(
    tasks: int, features: int, said: str, run: Path, tmp_path: Path
) -> None:
    text = ONE_MORE.format(tasks=tasks, classes=4, features=features)
    (tmp_path / "more.yaml").write_text(text)
    code, out, err = ask(
        "adapters", "add", run, "--task", tmp_path / "more.yaml", "-o", tmp_path / "bank"
    )
    assert (code, out) == (2, "")
    assert said in err
    assert not (tmp_path / "bank").exists()


def test_where_learning_moves_others_no_task_is_added(tmp_path: Path) -> None:
    merged = done(tmp_path, MLP, NUMBERS, "merged, rank: 2")
    more = lora_cl.parse_config(ONE_MORE.format(tasks=1, classes=4, features=12), "more.yaml")
    with pytest.raises(MethodError, match="only isolated methods take a task"):
        lora_cl.add_task(merged, more, tmp_path / "bank")
