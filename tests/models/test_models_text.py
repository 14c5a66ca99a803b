"""Pretrained networks for texts: tiny ones made here, by the real libraries."""

from __future__ import annotations

import copy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from text_cases import WORDS, backbone, config, save_model, save_texts, sentences, tokens_of
from torch import Tensor

import lora_cl
from lora_cl import load_bank
from lora_cl.config import parse_config
from lora_cl.data.features import FeatureStore
from lora_cl.data.source import text_rows
from lora_cl.errors import ConfigError, DataError, LoraClError
from lora_cl.methods import METHODS
from lora_cl.methods.routing import ROUTERS
from lora_cl.models.text import BUCKET, Transformers
from lora_cl.records.folders import read_record
from lora_cl.running.answers import answers
from lora_cl.running.loading import load_run
from lora_cl.running.preparation import check, prepare
from lora_cl.running.runner import Where, run_one
from lora_cl.testing import source_contract
from lora_cl.testing.contract import learned_by
from lora_cl.testing.interrupting import cut_and_compare
from lora_cl.testing.runs import outcome, run_done
from lora_cl.training.loop import accuracy


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("text")
    for kind in ("bert", "gpt2", "t5"):
        save_model(place / kind, kind)
    save_texts(place / "texts.csv")
    return place


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where features are kept: nowhere else, so that no test finds those of another."""
    monkeypatch.setenv("LORA_CL_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def text_of(place: Path) -> Callable[..., str]:
    def made(methods: str, scenario: str = "task", more: str = "", kind: str = "bert") -> str:
        return config(place / kind, place / "texts.csv", methods, scenario, more)

    return made


@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_features_are_those_of_transformers_run_directly(
    place: Path, kind: str, pooling: str
) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(place / kind).eval()
    model = model.get_encoder() if kind == "t5" else model
    tokens = tokens_of(place / kind, sentences(20))
    compared = 0
    with torch.no_grad():
        features = backbone(place / kind, pooling=pooling)(tokens)
        for row, one in zip(features, tokens, strict=True):  # Each alone: nothing is padded.
            ids = one[one >= 0].long()
            hidden = model(input_ids=ids[None]).last_hidden_state[0]
            pooled = {"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[pooling]
            assert torch.allclose(row, pooled, atol=1e-5)
            compared += 1
    assert features.shape == (20, 16)
    assert compared == 20


def test_a_text_is_the_same_among_any_others(place: Path) -> None:
    """Padded to the longest of each batch, it would depend on its neighbours."""
    network, tokens = backbone(place / "bert"), tokens_of(place / "bert", sentences(64))
    lengths = (tokens >= 0).sum(1)
    assert len(set(((lengths + BUCKET - 1) // BUCKET).tolist())) == 2
    with torch.no_grad():
        whole = network(tokens)
        for seed in range(5):
            chosen = torch.randperm(64, generator=torch.Generator().manual_seed(seed))[:24]
            assert torch.equal(network(tokens[chosen]), whole[chosen])


def test_an_empty_text_has_features_too(place: Path) -> None:
    with torch.no_grad():
        features = backbone(place / "gpt2")(torch.full((2, 16), -1, dtype=torch.int32))
    assert bool(features.isfinite().all())


REFUSED = {"shared_private": "use private_input: features"}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_texts_or_says_why_not(
    method: str, tmp_path: Path, text_of: Callable[..., str]
) -> None:
    options = {"adalora": "rank: 4, target_rank: 2"}.get(method, "")
    text = text_of(f"{method}: {{{options}}}", "class")
    if method in REFUSED:
        with pytest.raises(ConfigError, match=REFUSED[method]):
            prepare(parse_config(text, "c.yaml"), None, print)
        text = text_of("shared_private: {private_input: features}", "class")
    folder = run_done(text, tmp_path)
    restored = load_run(folder)
    with restored.view(1) as network:
        x = restored.benchmark.task(1).test().x[:3]
        assert x.dtype == torch.int32
        assert network(x).shape[0] == 3


@pytest.mark.parametrize("adapter", ["lora", "dora", "qlora"])
@pytest.mark.parametrize("method", ["ewc", "derpp"])
def test_one_adapter_for_all_tasks_of_texts(
    method: str, adapter: str, tmp_path: Path, text_of: Callable[..., str]
) -> None:
    folder = run_done(text_of(f"{method}: {{adapter: {{name: {adapter}, rank: 2}}}}"), tmp_path)
    assert all(entry is not None for entry in read_record(folder).result["accuracy_matrix"][1])


def test_it_learns(tmp_path: Path, place: Path) -> None:
    """Each text ends with a word of its class; chance is a half."""
    texts = save_texts(tmp_path / "more.csv", per_class=60)
    text = config(place / "bert", texts, "independent: {}").replace("epochs: 2", "epochs: 6")
    matrix = read_record(run_done(text, tmp_path)).result["accuracy_matrix"]
    assert 0.8 < sum(matrix[1]) / 2 <= 1.0


def test_a_folder_is_known_by_what_it_holds(tmp_path: Path, place: Path) -> None:
    known = {}
    for name in ("here", "there", "other"):
        folder = tmp_path / name
        shutil.copytree(place / "bert", folder)
        if name == "other":
            weights = load_file(folder / "model.safetensors")
            first = next(iter(weights))
            weights[first] = weights[first] + 1
            save_file(weights, folder / "model.safetensors", {"format": "pt"})
        text = config(folder, place / "texts.csv", "frozen: {}")
        (run,) = prepare(parse_config(text, "c.yaml"), None, print)
        known[name] = run.run_hash
        assert run.resolved["model"]["model"] == str(folder)
    assert known["here"] == known["there"] != known["other"]


def test_cut_off_anywhere_it_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text_of: Callable[..., str]
) -> None:
    experiment = parse_config(text_of("lora: {rank: 2, targets: ['*.1.*query']}"), "c.yaml")
    (run,) = prepare(experiment, None, print)
    cut_and_compare(run, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "method", ["frozen: {}", "lora: {rank: 2}", "lora: {rank: 2, targets: ['*.1.*query']}"]
)
def test_cached_or_streamed_the_bytes_are_the_same(
    method: str, tmp_path: Path, text_of: Callable[..., str]
) -> None:
    text = text_of(method)
    folder = run_done(text, tmp_path / "whole")
    uncached = run_done(text + "cache: false\n", tmp_path / "uncached")
    assert learned_by(folder) == learned_by(uncached)
    streamed = outcome(run_done(text + "stream: true\n", tmp_path / "streamed"))
    whole = outcome(folder)
    assert streamed["result"].pop("config") != whole["result"].pop("config")
    assert streamed == whole


@pytest.fixture
def rows_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each forward pass reads."""
    rows: list[int] = []
    forward = Transformers.forward

    def counted(self: Transformers, tokens: Tensor) -> Tensor:
        rows.append(len(tokens))
        return forward(self, tokens)

    monkeypatch.setattr(Transformers, "forward", counted)
    return rows


def test_a_frozen_network_reads_every_text_once_in_all_runs(
    tmp_path: Path, rows_read: list[int], text_of: Callable[..., str]
) -> None:
    text = text_of("frozen: {}").replace("epochs: 2", "epochs: 20") + "seeds: 3\n"
    read, folders = [], []
    for run in prepare(parse_config(text, "c.yaml"), None, print):
        rows_read.clear()
        assert run_one(run, Where(tmp_path)).status == "done"
        read.append(sum(rows_read))
        folders.append(tmp_path / run.folder)
    # 64 texts, of which a fifth to test with, and the zeros that the width is asked with.
    assert read == [64 + 1, 1, 1]
    uncached = prepare(parse_config(text + "cache: false\n", "c.yaml"), None, print)
    for run, folder in zip(uncached, folders, strict=True):
        assert run_one(run, Where(tmp_path / "uncached")).status == "done"
        assert learned_by(tmp_path / "uncached" / run.folder) == learned_by(folder)
    assert sum(rows_read) > 3 * 20 * 52


def remembering(place: Path, own_cache: Path) -> tuple[Transformers, Tensor]:
    """A frozen network that keeps what it computes, and eight texts for it."""
    network = backbone(place / "bert").requires_grad_(False)
    network.remember(FeatureStore(own_cache / "one"))
    return network, tokens_of(place / "bert", sentences(8))


def test_features_of_a_network_that_has_learned_are_not_those_kept(
    tmp_path: Path, place: Path, own_cache: Path, rows_read: list[int]
) -> None:
    network, tokens = remembering(place, own_cache)
    with torch.no_grad():
        first = network(tokens)
        rows_read.clear()
        assert torch.equal(network(tokens), first)
        assert torch.equal(network(tokens[3:5]), first[3:5])
        assert rows_read == []
        word = next(p for name, p in network.named_parameters() if "word_embeddings" in name)
        kept = word.clone()
        word += 1
        assert not torch.equal(network(tokens), first)
        assert rows_read == [8]
        word.copy_(kept)
        assert torch.equal(network(tokens), first)
        assert rows_read == [8]
    assert torch.equal(network(tokens), first)  # Where gradients may be asked for, it computes.
    assert rows_read == [8, 8]


def test_a_copy_made_in_inference_mode_has_what_is_kept_until_it_changes(
    place: Path, own_cache: Path, rows_read: list[int]
) -> None:
    network, tokens = remembering(place, own_cache)
    with torch.inference_mode():
        first = network(tokens)
        copied = copy.deepcopy(network)
        word = next(p for name, p in copied.named_parameters() if "word_embeddings" in name)
        assert word.is_inference()
        rows_read.clear()
        assert torch.equal(copied(tokens), first)
        assert rows_read == []
        word += 1
        assert not torch.equal(copied(tokens), first)
        assert rows_read == [8]
        assert torch.equal(network(tokens), first)


@pytest.mark.parametrize("router", ROUTERS)
def test_every_router_answers_for_texts(
    router: str, tmp_path: Path, text_of: Callable[..., str]
) -> None:
    found = []
    for cache in ("true", "false"):
        text = text_of(f"lora: {{rank: 2, router: {router}}}", "class") + f"cache: {cache}\n"
        result = read_record(run_done(text, tmp_path / cache)).result
        found.append([result[name] for name in ("accuracy_matrix", "confusion_matrices")])
    assert found[0] == found[1]
    assert all(entry is not None for entry in found[0][0][1])


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_network_that_the_optimiser_moved_answers_by_what_it_is_now(
    optimizer: str, tmp_path: Path, text_of: Callable[..., str]
) -> None:
    """Also where the first that is asked is the one that moved, and for those that come after."""
    found = []
    for cache in ("true", "false"):
        text = text_of("full: {train: {lr: 0.1}}, joint: , frozen: ")
        text += f"cache: {cache}\nseeds: 1\n"
        text = text.replace("batch_size: 8", f"batch_size: 8, optimizer: {optimizer}")
        records = lora_cl.run(
            parse_config(text, "c.yaml"), results=tmp_path / cache, jobs=0, device="cpu"
        )
        matrices = {record.label: record.result["accuracy_matrix"] for record in records}
        assert set(matrices) == {"full", "joint", "frozen"}
        found.append(matrices)
        for record in records:
            method = load_run(record.folder)
            for task in range(2):
                samples = method.benchmark.task(task).test()
                with method.view(task) as network:
                    right = accuracy(network, samples.x, samples.y + network.offsets[task])
                assert right == record.result["accuracy_matrix"][-1][task], record.label
    assert found[0] == found[1]


# PEFT's own; and it checks AdaLoRA's rank_pattern as if it were LoRA's, then uses it all the same.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
@pytest.mark.filterwarnings("ignore:The following rank_pattern keys")
@pytest.mark.parametrize("method", ["lora", "dora", "adalora"])
def test_what_was_learned_goes_to_peft(
    method: str, tmp_path: Path, place: Path, text_of: Callable[..., str]
) -> None:
    """The run's adapter folder, read by PEFT around the same network, gives the same features."""
    import shutil

    from peft import PeftModel
    from transformers import AutoModel

    options = "rank: 4, target_rank: 2" if method == "adalora" else "rank: 2"
    folder = run_done(text_of(f"{method}: {{{options}}}", kind="bert"), tmp_path / "run")
    adapter = shutil.copytree(folder / "adapters/task-001", tmp_path / "adapter")
    tensors = load_file(adapter / "adapter_model.safetensors")
    tensors = {
        name.replace("model.backbone.model.", "model."): tensor
        for name, tensor in tensors.items()
        if "heads" not in name
    }
    assert len(tensors) > 10
    save_file(tensors, adapter / "adapter_model.safetensors", {"format": "pt"})
    described = adapter / "adapter_config.json"
    described.write_text(described.read_text().replace("backbone.model.", ""))
    base = AutoModel.from_pretrained(place / "bert", add_pooling_layer=False)
    theirs = PeftModel.from_pretrained(base, adapter).eval()

    restored = load_run(folder)
    tokens = restored.benchmark.task(1).test().x
    plain = backbone(place / "bert")
    with torch.no_grad(), restored.view(1) as network:
        ours = network.backbone(tokens)
        plain.model = theirs
        assert torch.allclose(plain(tokens), ours, atol=1e-5)
        assert not torch.allclose(backbone(place / "bert")(tokens), ours, atol=1e-3)


# What is refused


def test_texts_and_numbers_do_not_mix(text_of: Callable[..., str]) -> None:
    mixed = {
        "model=mlp": "takes numbers, and text holds texts: use transformers",
        "benchmark.dataset=digits": "model: takes texts, and digits holds numbers",
        "base.pretrain={dataset: digits}": "takes texts, and digits holds numbers",
    }
    for override, told in mixed.items():
        with pytest.raises(ConfigError, match=r"c\.yaml:") as caught:
            prepare(parse_config(text_of("full: {}"), "c.yaml", [override]), None, print)
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)


def refused(text: str) -> str:
    with pytest.raises(LoraClError, match=r"c\.yaml:") as caught:
        prepare(parse_config(text, "c.yaml"), None, print)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_no_model_can_be_made_of(
    place: Path, tmp_path: Path, text_of: Callable[..., str]
) -> None:
    texts = place / "texts.csv"

    def told(folder: Path | str) -> str:
        return refused(config(Path(folder), texts, "full: {}"))

    assert f"{tmp_path / 'none'}: is no folder" in told(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "holds no config.json" in told(tmp_path / "empty")
    bare = save_model(tmp_path / "bare")
    (bare / "model.safetensors").rename(bare / "pytorch_model.bin")
    assert "pytorch_model.bin is a pickle, which can run code: it is not read" in told(bare)
    lacking = save_model(tmp_path / "lacking")
    tensors = load_file(lacking / "model.safetensors")
    names = sorted(name for name in tensors if "encoder" in name)
    assert len(names) > 10
    rest = {name: tensor for name, tensor in tensors.items() if name not in names[:2]}
    save_file(rest, lacking / "model.safetensors", {"format": "pt"})
    message = told(lacking)
    assert "2 of " in message
    assert names[0] in message
    mute = save_model(tmp_path / "mute")
    (mute / "tokenizer.json").unlink()
    assert "holds no tokenizer.json" in told(mute)
    (mute / "tokenizer.json").write_text("{}")
    assert "tokenizer.json: no tokenizer: " in told(mute)
    assert "is neither minilm, nor a folder, nor a model of the hub" in told("minilmm")
    assert "max_length: 64 is more than the 32 positions" in refused(
        text_of("full: {}").replace("max_length: 16", "max_length: 64")
    )


def test_without_the_extra_it_is_one_line(
    monkeypatch: pytest.MonkeyPatch, text_of: Callable[..., str], tmp_path: Path
) -> None:
    other = save_model(tmp_path / "other")
    monkeypatch.setitem(sys.modules, "transformers", None)
    text = text_of("full: {}").replace("bert'", "bert'")
    text = text.replace(text.split("model: '")[1].split("'")[0], str(other))
    assert "pip install 'lora-cl[text]'" in refused(text)


def test_weights_that_are_not_here_yet_are_said(
    tmp_path: Path, text_of: Callable[..., str], place: Path
) -> None:
    text = text_of("full: {}").replace(str(place / "bert"), "minilm")
    unseen = check(parse_config(text, "c.yaml"), tmp_path)
    assert unseen == ["the model's weights are not here yet: checked without them"]


def test_texts_are_kept_as_bytes() -> None:
    from lora_cl.data.source import LONGEST_TEXT, texts_of

    texts = ["", "plain", "Größe € 漢字 🙂", "a\0b", "é" * LONGEST_TEXT]
    back = texts_of(text_rows(texts))
    assert back[:4] == ["", "plain", "Größe € 漢字 🙂", "a b"]
    assert back[4] == "é" * (LONGEST_TEXT // 2)
    assert text_rows([]).shape == (0, 1)


def test_a_set_of_texts_keeps_what_every_data_set_promises(place: Path, tmp_path: Path) -> None:
    model = f"{{name: transformers, model: '{place / 'bert'}', max_length: 16}}"
    contract = source_contract("text", f"path: '{place / 'texts.csv'}'", model)()
    promises = [name for name in dir(contract) if name.startswith("test_")]
    for name in promises:
        (tmp_path / name).mkdir()
        getattr(contract, name)(tmp_path / name)
    assert len(promises) == 3


def test_a_sequence_of_texts_and_no_permutation_of_words(
    place: Path, tmp_path: Path, text_of: Callable[..., str]
) -> None:
    datasets = f"[{{name: text, path: '{place / 'texts.csv'}'}}, {{name: text, path: '{place}'}}]"
    for part in ("train", "test"):
        save_texts(place / f"{part}.csv", per_class=8)
    text = text_of("lora: {rank: 2}")
    first = text.index("benchmark:")
    rest = text[text.index("scenario:") :]
    sequence = f"{text[:first]}benchmark: {{name: sequence, datasets: {datasets}}}\n{rest}"
    restored = load_run(run_done(sequence, tmp_path))
    assert [restored.benchmark.task(index).classes for index in range(2)] == [4, 4]
    assert restored.benchmark.task(1).test().x.shape == (32, 16)
    permuted = text.replace("{name: split, tasks: 2,", "{name: permuted, tasks: 2,")
    assert "permutes features, and text holds texts" in refused(permuted)


def test_a_run_on_texts_answers_for_texts_without_its_own(place: Path, tmp_path: Path) -> None:
    texts = save_texts(tmp_path / "t.csv")
    done = run_done(config(place / "bert", texts, "lora: {rank: 2}"), tmp_path / "r")
    restored = load_run(done)
    x = restored.benchmark.task(1).test().x
    with torch.inference_mode(), restored.view(1) as network:
        wanted = torch.softmax(network(x), dim=1)
    # The texts that these tokens are of, as a stranger has them.
    vocabulary = {3 + place: word for place, word in enumerate(WORDS)}
    rows = [" ".join(vocabulary[token] for token in row if token > 2) for row in x.tolist()]
    texts.unlink()
    labels, probabilities, _ = load_run(done).predict(rows, task=1)
    torch.testing.assert_close(probabilities, wanted)
    assert set(labels) <= {"kind c", "kind d"}
    (tmp_path / "new.txt").write_text("\n".join(rows))
    said = answers(load_run(done), [tmp_path / "new.txt"], 1, None, "text")
    assert [one.label for one in said] == labels
    result = read_record(done).result
    assert result["input"] == {
        "kind": "tokens", "shape": [16], "tokenizer": str(place / "bert"), "pooling": "mean"
    }  # fmt: skip
    with pytest.raises(DataError, match=r"new\.npz: its ending is none of \.csv"):
        answers(load_run(done), [tmp_path / "new.npz"], 1, None, "text")
    with pytest.raises(DataError, match="takes texts, not numbers"):
        load_run(done).predict(torch.zeros(1, 16), task=1)
    # In a bank, rows of different lengths and tasks go through the network together.
    bank = load_bank(done)
    tasks = [row % 2 for row in range(len(x))]
    mixed = bank(x, tasks)
    for row, task in enumerate(tasks):
        with bank.task(task) as network, torch.inference_mode():
            torch.testing.assert_close(mixed[row], network(x[row : row + 1])[0])
    assert len(set((x >= 0).sum(1).tolist())) > 3
