"""MiniLM itself: the features of transformers run directly, and the adapters of real PEFT."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from image_cases import backbone
from process_cases import ask
from safetensors.torch import load_file, save_file
from text_cases import save_texts
from torch import Tensor, nn

import lora_cl
from lora_cl.adapters import (
    PeftAdapter,
    activate,
    adapter_modules,
    adapter_state,
    add_adapter,
    make_adalora,
    make_dora,
    make_lora,
    match_targets,
    to_peft,
    wrap,
)
from lora_cl.data import data_root
from lora_cl.models.text import MINILM
from lora_cl.testing.runs import run_done

transformers = pytest.importorskip("transformers")
with warnings.catch_warnings():
    # PEFT's own imports, not ours, decide whether something in them is deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    warnings.simplefilter("ignore", FutureWarning)
    peft = pytest.importorskip("peft")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(MINILM.where(data_root()) is None, reason="MiniLM is not here"),
]

TEXTS = [
    "a domesticated carnivorous mammal that typically barks",
    "the capital and largest city of France",
    "",
    "a body of salt water " + "that lies between two other bodies of water " * 12,
    "money",
]
LENGTH = 64
MAKERS: dict[str, Any] = {"lora": make_lora, "dora": make_dora, "adalora": make_adalora}


class Directly(nn.Module):
    """What the model card does: transformers, all texts padded to the longest, then the mean."""

    def __init__(self) -> None:
        super().__init__()
        folder = MINILM.fetch(data_root())
        self.model = transformers.AutoModel.from_pretrained(folder)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def forward(self, texts: list[str]) -> Tensor:
        read = self.tokenizer(
            texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt"
        )
        hidden = self.model(**read).last_hidden_state
        there = read["attention_mask"].unsqueeze(2).float()
        mean: Tensor = (hidden * there).sum(1) / there.sum(1)
        return mean


class Network(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.backbone = inner

    def forward(self, x: Any) -> Tensor:
        found: Tensor = self.backbone(x)
        return found


def tokens() -> Tensor:
    """As a data set gives them: int32, -1 after the last one."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(MINILM.fetch(data_root()))
    made = torch.full((len(TEXTS), LENGTH), -1, dtype=torch.int32)
    read = tokenizer(TEXTS, truncation=True, max_length=LENGTH)["input_ids"]
    for row, ids in zip(made, read, strict=True):
        row[: len(ids)] = torch.tensor(ids, dtype=torch.int32)
    return made


def test_features_are_those_of_transformers() -> None:
    ours, theirs = backbone("transformers", (LENGTH,), model="minilm"), Directly().eval()
    x = tokens()
    assert int((x >= 0).sum(1).max()) == LENGTH
    with torch.no_grad():
        found, right = ours(x), theirs(TEXTS)
    assert found.shape == (5, 384)
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", MAKERS)
def test_adapters_and_their_gradients_are_those_of_peft(kind: str, tmp_path: Path) -> None:
    ours = backbone("transformers", (LENGTH,), model="minilm")
    wrap(ours, match_targets(ours, ["*.query", "*.value", "*.dense"]))
    generator = torch.Generator().manual_seed(1)

    def make(_: str, base: nn.Module) -> nn.Module:
        made: nn.Module = MAKERS[kind](base, rank=4, alpha=8, generator=generator)
        return made

    add_adapter(ours, "task", make)
    activate(ours, "task")
    adapters = adapter_modules(ours, "task")
    assert len(adapters) == 6 * 5
    for parameter in (p for adapter in adapters.values() for p in adapter.parameters()):
        parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    state = adapter_state(ours, "task")
    config, tensors = to_peft(PeftAdapter(kind=kind, rank=4, alpha=8, state=state))  # type: ignore[arg-type]
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    plain = Network(Directly())
    theirs = peft.PeftModel.from_pretrained(plain, tmp_path, is_trainable=True).eval()

    found, right = ours.eval()(tokens()), theirs(TEXTS)
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert (found - Directly().eval()(TEXTS)).abs().max() > 0.01
    for features in (found, right):
        features.square().sum().backward()
    gradients = {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    compared = 0
    for layer, adapter in adapters.items():
        for name, parameter in adapter.named_parameters():
            plain_name = name.removesuffix(".weight")
            (theirs_grad,) = (g for n, g in gradients.items() if f".{layer}.{plain_name}" in n)
            scale = theirs_grad.abs().max()
            assert parameter.grad is not None
            difference = (parameter.grad - theirs_grad.view_as(parameter)).abs().max()
            assert difference <= 1e-4 * scale, name
            compared += 1
    assert compared == 30 * {"lora": 2, "dora": 3, "adalora": 3}[kind]


RUN = """
name: minilm
benchmark: {{name: split, tasks: 2, dataset: {{name: text, path: '{texts}'}}}}
model: {{name: transformers, model: minilm, max_length: 64}}
train: {{iterations: 2, batch_size: 8, lr: 0.005}}
methods: {{{method}: {{rank: 4, targets: ["*query", "*value"]}}}}
"""


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_what_peft_trained_comes_in_and_goes_out_again(kind: str, tmp_path: Path) -> None:
    text = RUN.format(texts=save_texts(tmp_path / "texts.csv"), method=kind)
    run = run_done(text, tmp_path / "runs")
    texts = [text for text in TEXTS if text]
    base, head = Directly().eval(), nn.Linear(384, 2)
    with torch.no_grad():
        before = head(base(texts))
    options = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["query", "value"], use_dora=kind == "dora"
    )
    base.model = peft.get_peft_model(base.model, options)
    trained = [p for p in base.parameters() if p.requires_grad] + list(head.parameters())
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    for _ in range(2):
        loss = nn.functional.cross_entropy(head(base(texts)), torch.tensor([0, 1, 1, 0]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    base.model.save_pretrained(tmp_path / "theirs")
    save_file(head.state_dict(), tmp_path / "theirs" / "head.safetensors")
    with torch.no_grad():
        right = head(base(texts))
    assert float((right - before).abs().max()) > 0.01

    bank = tmp_path / "bank"
    code, _, err = ask(
        "adapters", "import", run, tmp_path / "theirs", "--classes", "no,yes", "-o", bank
    )
    assert (code, err) == (0, f"written to {bank}, as task 2\n")
    method = lora_cl.load_run(bank)
    with torch.no_grad(), method.view(2) as network:
        torch.testing.assert_close(network(method.reads(texts)), right, rtol=1e-5, atol=1e-5)

    lora_cl.export_adapter(bank, 2, tmp_path / "again")
    again, out = Directly().eval(), load_file(tmp_path / "again" / "head.safetensors")
    again.model = peft.PeftModel.from_pretrained(again.model, tmp_path / "again").eval()
    with torch.no_grad():
        features = again(texts)
    found = features @ out["weight"].T + out["bias"]
    torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)
