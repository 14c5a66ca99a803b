"""Tiny pretrained networks for texts, and texts for them, made here."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    PreTrainedTokenizerFast,
    T5Config,
    T5Model,
)

from lora_cl.models.text import Transformers, TransformersOptions

WORDS = [f"{kind}{number}" for kind in ("a", "b", "c", "d", "x") for number in range(6)]


def save_tokenizer(folder: Path) -> None:
    vocabulary = {word: place for place, word in enumerate(["[PAD]", "[UNK]", "[CLS]", *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", 2)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]"
    ).save_pretrained(folder)


def save_model(folder: Path, kind: str = "bert") -> Path:
    """A network of two layers of width 16 with random weights, as ``save_pretrained`` writes it."""
    size = len(WORDS) + 3
    makers: dict[str, Any] = {
        "bert": lambda: BertModel(
            BertConfig(
                vocab_size=size,
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=32,
            )
        ),
        "gpt2": lambda: GPT2Model(
            GPT2Config(vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=32)
        ),
        "t5": lambda: T5Model(
            T5Config(
                vocab_size=size, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
                decoder_start_token_id=0,
            )
        ),
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        makers[kind]().save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_texts(path: Path, per_class: int = 16) -> Path:
    """Four classes, each with words of its own among words of all, 3 to 14 of them."""
    dice = random.Random(0)
    rows = []
    for kind in "abcd":
        for _ in range(per_class):
            length = dice.randrange(3, 15)
            words = [dice.choice(WORDS) for _ in range(length)]
            words[dice.randrange(length)] = f"{kind}{dice.randrange(6)}"
            words += [f"{kind}{dice.randrange(6)}"]
            rows.append((" ".join(words), f"kind {kind}"))
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(path, index=False)
    return path


def config(folder: Path, texts: Path, methods: str, scenario: str = "task", more: str = "") -> str:
    return (
        "name: text\n"
        f"benchmark: {{name: split, tasks: 2, dataset: {{name: text, path: '{texts}'}}}}\n"
        f"scenario: {scenario}\n"
        f"model: {{name: transformers, model: '{folder}', max_length: 16{more}}}\n"
        "train: {epochs: 2, batch_size: 8, lr: 0.01}\n"
        f"methods: {{{methods}}}\n"
    )


def sentences(count: int) -> list[str]:
    """Texts of every length from 1 to 13 words."""
    return [
        " ".join(WORDS[(row + k) % len(WORDS)] for k in range(1 + row % 13)) for row in range(count)
    ]


def tokens_of(folder: Path, texts: list[str], max_length: int = 16) -> torch.Tensor:
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(texts)["input_ids"]
    made = torch.full((len(ids), max_length), -1, dtype=torch.int32)
    for row, one in zip(made, ids, strict=True):
        row[: len(one)] = torch.tensor(one, dtype=torch.int32)
    return made


def backbone(folder: Path, **options: object) -> Transformers:
    made = TransformersOptions.model_validate({"model": str(folder), "max_length": 16, **options})
    return Transformers(made, torch.Size([16]), folder).eval()
