"""What is exported answers in real PEFT, on the library's own network, as the run does."""

from __future__ import annotations

import importlib
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from process_cases import ask
from safetensors.torch import load_file, safe_open
from text_cases import WORDS, save_model, save_texts
from torch import Tensor, nn

import lora_cl
from lora_cl.errors import LoraClError, MethodError, ResultsError
from lora_cl.running.exporting import selecting
from lora_cl.testing.runs import run_done

with warnings.catch_warnings():
    # PEFT's own imports, not ours, decide whether something in them is deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", FutureWarning)
    peft = pytest.importorskip("peft")

CONFIG = """
name: export
benchmark: {benchmark}
model: {model}
train: {{iterations: 4, batch_size: 8, lr: 0.02}}
methods: {{it: {{method: {method}}}}}
"""
IMAGES = (
    "{name: split, tasks: 2, max_train_samples: 40, max_test_samples: 10, "
    "dataset: {name: synthetic, classes: 4, shape: [3, 16, 16], train_per_class: 20}}"
)
NUMBERS = "{name: split, tasks: 2, dataset: {name: synthetic, classes: 6, features: 12}}"
METHODS = {
    "lora": "lora, rank: 2",
    "rslora": "lora, rank: 4, scaling: rslora",
    "dora": "dora, rank: 2",
    "adalora": "adalora, rank: 3, target_rank: 2, every: 1, warmup: 0, final: 0.3",
}
OWN = {
    "mlp": ("{name: mlp, hidden: [10, 8]}", NUMBERS),
    "cnn": ("{name: cnn, channels: [4, 6], hidden: 8}", IMAGES),
    "vit": ("{name: vit, width: 16, depth: 2, heads: 2, patch: 4}", IMAGES),
}
TASK = 1


def done(place: Path, model: str, benchmark: str, method: str) -> Path:
    text = CONFIG.format(model=model, benchmark=benchmark, method=METHODS.get(method, method))
    return run_done(text, place / "runs")


def answered(run: Path, count: int = 6) -> tuple[Tensor, Tensor]:
    """Some inputs of the task, and what the run says of them."""
    method = lora_cl.load_run(run)
    x = method.benchmark.task(TASK).test().x[:count]
    with torch.inference_mode(), method.view(TASK) as network:
        return x, network(x).clone()


def exported(run: Path, place: Path, *options: str) -> Path:
    target = place / "away"
    code, _, err = ask("adapters", "export", run, "--task", str(TASK), "-o", target, *options)
    assert (code, err) == (0, f"written to {target}\n")
    return target


def loaded(base: nn.Module, folder: Path) -> Any:
    with warnings.catch_warnings():
        # PEFT checks AdaLoRA's rank_pattern as if it were LoRA's, then uses it all the same.
        warnings.filterwarnings("ignore", message="The following rank_pattern keys")
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        return peft.PeftModel.from_pretrained(base, folder).eval()


def require_same(theirs: Tensor, ours: Tensor) -> None:
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", OWN)
def test_our_own_networks_in_peft(model: str, method: str, tmp_path: Path) -> None:
    run = done(tmp_path, *OWN[model], method)
    x, ours = answered(run)
    folder = exported(run, tmp_path)
    base = lora_cl.load_base(run, TASK)
    without = base(x)
    theirs = loaded(base, folder)
    with torch.inference_mode():
        require_same(theirs(x), ours)
        assert float((without - ours).abs().max()) > 0.01
        require_same(theirs.merge_and_unload()(x), ours)
    card = (folder / "README.md").read_text("utf-8")
    assert "| test accuracy on this task |" in card
    assert json.loads((folder / "adapter_config.json").read_text())["inference_mode"] is True


def library_base(kind: str, run: Path) -> nn.Module:
    """The library's own network, its weights those of the run's base, a new head on it."""
    classes = len(lora_cl.load_run(run).benchmark.class_names(TASK))
    made: nn.Module
    origin = lora_cl.load_run(run).network.backbone.origin
    library = {origin.library: importlib.import_module(origin.library)}
    made = eval(origin.call.format(classes=classes), library)  # As the model card has it.
    made.load_state_dict(lora_cl.load_base(run, TASK).state_dict())
    return made.eval()


LIBRARY = [
    ("torchvision", "shufflenet_v2_x0_5", "lora, rank: 2, targets: last-2"),
    pytest.param(
        "torchvision",
        "resnet18",
        "dora, rank: 2, targets: [network.conv1, '*.0.conv1']",
        marks=pytest.mark.slow,
    ),
    ("timm", "test_resnet", "lora, rank: 2"),
    ("timm", "test_vit", "dora"),
    ("timm", "test_vit", "adalora"),
    ("timm", "test_efficientnet", "lora, rank: 2, targets: [network.conv_stem, '*.conv_pwl']"),
]


@pytest.mark.parametrize(("library", "kind", "method"), LIBRARY, ids=lambda v: str(v)[:24])
def test_networks_of_libraries_in_peft(
    library: str, kind: str, method: str, tmp_path: Path
) -> None:
    """The head is the library's own classifier; what is exported gives logits."""
    run = done(tmp_path, f"{{name: {library}, model: {kind}, size: 32}}", IMAGES, method)
    x, ours = answered(run)
    folder = exported(run, tmp_path)
    prepared = lora_cl.load_run(run).network.backbone.images(x)
    theirs = loaded(library_base(kind, run), folder)
    assert theirs.peft_config["default"].base_model_name_or_path == kind
    with torch.inference_mode():
        require_same(theirs(prepared), ours)
        require_same(theirs.merge_and_unload()(prepared), ours)
    whole = tmp_path / "merged"
    ask("adapters", "export", run, "--task", str(TASK), "-o", whole, "--merge")
    plain = library_base(kind, run)
    plain.load_state_dict(load_file(whole / "model.safetensors"))
    with torch.inference_mode():
        require_same(plain(prepared), ours)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5"])
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_networks_of_transformers_in_peft(kind: str, method: str, tmp_path: Path) -> None:
    base = save_model(tmp_path / kind, kind)
    texts = save_texts(tmp_path / "texts.csv")
    run = done(
        tmp_path,
        f"{{name: transformers, model: '{base}', max_length: 16}}",
        f"{{name: split, tasks: 2, dataset: {{name: text, path: '{texts}'}}}}",
        method,
    )
    sentences = [" ".join(WORDS[(k + j) % len(WORDS)] for j in range(3 + k)) for k in range(6)]
    restored = lora_cl.load_run(run)
    with torch.inference_mode(), restored.view(TASK) as network:
        ours = network(restored.reads(sentences)).clone()
    folder = exported(run, tmp_path)
    tokens = transformers.AutoTokenizer.from_pretrained(base)(
        sentences, padding=True, truncation=True, max_length=16, return_tensors="pt"
    )
    tokens.pop("token_type_ids", None)
    head = load_file(folder / "head.safetensors")

    def logits(model: Any) -> Tensor:
        with torch.inference_mode():
            hidden = model(**tokens).last_hidden_state
        there = tokens["attention_mask"].unsqueeze(2)
        features = (hidden * there).sum(1) / there.sum(1)
        return features @ head["weight"].T + head["bias"]

    def plain() -> Any:
        model = transformers.AutoModel.from_pretrained(base)
        return (model.get_encoder() if kind == "t5" else model).eval()

    before = logits(plain())
    theirs = loaded(plain(), folder)
    assert theirs.peft_config["default"].base_model_name_or_path == str(base)
    require_same(logits(theirs), ours)
    assert float((before - ours).abs().max()) > 0.01
    require_same(logits(theirs.merge_and_unload()), ours)
    whole = tmp_path / "merged"
    ask("adapters", "export", run, "--task", str(TASK), "-o", whole, "--merge")
    if kind != "t5":
        require_same(logits(transformers.AutoModel.from_pretrained(whole).eval()), ours)


def test_names_select_where_none_ends_alike_and_a_pattern_else() -> None:
    there = ["", "conv1", "block.0", "block.0.conv1", "block.0.conv2"]
    assert selecting(["block.0.conv1", "block.0.conv2"], there) == [
        "block.0.conv1",
        "block.0.conv2",
    ]
    pattern = selecting(["conv1", "block.0.conv2"], there)
    assert isinstance(pattern, str)
    chosen = [name for name in there if re.fullmatch(pattern, name)]
    assert chosen == ["conv1", "block.0.conv2"]


@pytest.mark.slow
def test_a_pattern_selects_where_names_end_alike(tmp_path: Path) -> None:
    """``conv1`` of a resnet must not take every block's conv1 with it."""
    model = "{name: timm, model: resnet18, size: 32}"
    run = done(tmp_path, model, IMAGES, "lora, rank: 2, targets: [network.conv1]")
    folder = exported(run, tmp_path)
    theirs = loaded(library_base("resnet18", run), folder)
    adapted = [name for name, _ in theirs.named_modules() if name.endswith("conv1.lora_A")]
    assert adapted == ["base_model.model.conv1.lora_A"]


def test_plain_tensors_and_a_merged_network_of_ours(tmp_path: Path) -> None:
    run = done(tmp_path, *OWN["mlp"], "lora")
    x, ours = answered(run)
    folder = exported(run, tmp_path, "--format", "safetensors")
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        assert file.metadata()["kind"] == "lora"
        assert "backbone.linear1.lora_A.weight" in file.keys()  # noqa: SIM118
    ask("adapters", "export", run, "--task", str(TASK), "-o", tmp_path / "whole", "--merge")
    base = lora_cl.load_base(run, TASK)
    base.load_state_dict(load_file(tmp_path / "whole" / "model.safetensors"))
    require_same(base(x), ours)


def test_a_base_in_four_bits_is_exported_as_the_numbers_it_stands_for(tmp_path: Path) -> None:
    run = done(tmp_path, *OWN["mlp"], "qlora, rank: 2")
    x, ours = answered(run)
    require_same(loaded(lora_cl.load_base(run, TASK), exported(run, tmp_path))(x), ours)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return done(tmp_path_factory.mktemp("small"), *OWN["mlp"], "lora")


def test_what_cannot_be_exported(small: Path, tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="task 7 is not in the bank; there are: 0, 1"):
        lora_cl.export_adapter(small, 7, tmp_path / "x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    with pytest.raises(ResultsError, match="is not empty; nothing is written over"):
        lora_cl.export_adapter(small, 0, tmp_path / "full")
    (tmp_path / "file").touch()
    with pytest.raises(ResultsError, match="cannot be written"):
        lora_cl.export_adapter(small, 0, tmp_path / "file")
    run = done(tmp_path, *OWN["mlp"], "full")
    with pytest.raises(LoraClError, match="full keeps no adapter per task"):
        lora_cl.export_adapter(run, 0, tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_padding_that_peft_cannot_run_is_refused(tmp_path: Path) -> None:
    model = "{name: timm, model: tf_efficientnet_lite0, size: 32}"
    run = done(tmp_path, model, IMAGES, "lora, rank: 2, targets: [network.conv_stem]")
    with pytest.raises(MethodError, match=r"layer network\.conv_stem has padding or dilation"):
        lora_cl.export_adapter(run, TASK, tmp_path / "x")
    lora_cl.export_adapter(run, TASK, tmp_path / "x", merge=True)


def test_a_run_that_is_read_only_stays_untouched(small: Path, tmp_path: Path) -> None:
    before = {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in small.rglob("*") if f.is_file()}
    exported(small, tmp_path)
    for command in (["list"], ["show"]):
        assert ask("adapters", *command, small)[0] == 0
    after = {f: (f.stat().st_mtime_ns, f.read_bytes()) for f in small.rglob("*") if f.is_file()}
    assert before == after
    assert len(before) >= 6
