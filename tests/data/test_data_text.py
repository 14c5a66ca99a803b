"""Texts: tables of one's own, and WordNet's glosses from a file made here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from lora_cl.data import make_source, wordnet
from lora_cl.data.fetching import File
from lora_cl.data.links import Link
from lora_cl.data.source import Dataset, texts_of
from lora_cl.data.text_files import TextFiles, TextOptions
from lora_cl.data.wordnet import KINDS, WordNet, WordNetOptions
from lora_cl.data.zhang import AgNews, ZhangOptions
from lora_cl.errors import DataError

ROWS = [
    ("a cat, and \"quotes\"", "animal"),
    ("Größe 漢字", "thing"),
    ("a dog", "animal"),
    ("", "thing"),
    ("a cow", "animal"),
]  # fmt: skip


def table(path: Path, rows: list[tuple[str, str]] = ROWS, **names: str) -> Path:
    frame = pd.DataFrame(rows, columns=[names.get("text", "text"), names.get("label", "label")])
    if path.suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True, force_ascii=False)
    else:
        frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


def load(path: Path, **options: str) -> Dataset:
    return TextFiles(TextOptions(path=str(path), **options)).load(Path("nowhere"))


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.jsonl"])
def test_a_table_is_split_by_class(name: str, tmp_path: Path) -> None:
    data = load(table(tmp_path / name))
    assert data.text
    assert data.class_names == ("animal", "thing")
    # A fifth of 3 and of 2, at least one.
    assert data.y_test.tolist().count(0) == data.y_test.tolist().count(1) == 1
    found = [*texts_of(data.x_train), *texts_of(data.x_test)]
    assert sorted(found) == sorted(text for text, _ in ROWS)
    labels = [*data.y_train.tolist(), *data.y_test.tolist()]
    assert dict(zip(found, labels, strict=True)) == {
        text: ["animal", "thing"].index(label) for text, label in ROWS
    }


def test_a_folder_holds_train_and_test(tmp_path: Path) -> None:
    table(tmp_path / "train.csv", [("one", "10"), ("two", "9"), ("three", "10")])
    table(tmp_path / "test.jsonl", [("four", "9"), ("five", "10")])
    data = load(tmp_path)
    assert data.class_names == ("9", "10")  # Numbers by value.
    assert texts_of(data.x_train) == ["one", "two", "three"]
    assert data.y_train.tolist() == [1, 0, 1]
    assert data.y_test.tolist() == [0, 1]


def test_a_file_that_changed_is_read_anew(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", text="body", label="kind")
    first = load(path, text="body", label="kind")
    table(path, [*ROWS, ("a hen", "animal")], text="body", label="kind")
    second = load(path, text="body", label="kind")
    assert len(second.y_train) + len(second.y_test) == 6
    assert first.checksum != second.checksum


def test_what_is_wrong_with_a_table_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "t.doc").write_text("")
    wrong: dict[Path, str] = {
        tmp_path / "none.csv": "none.csv: cannot be read: No such file or directory",
        tmp_path / "t.doc": "its ending is none of .csv, .tsv, .jsonl, .json, .parquet",
        table(tmp_path / "other.csv", text="txt"): "has no column 'text'; it has txt, label",
        table(tmp_path / "empty.csv", []): "holds no rows",
        table(
            tmp_path / "one.csv", [("a", "x"), ("b", "y"), ("c", "y")]
        ): "x (class 0) has 1 example",
        tmp_path: "holds no file called train with one of the endings",
    }
    (tmp_path / "broken.jsonl").write_text('{"text": "a", "label": \n')
    wrong[tmp_path / "broken.jsonl"] = "broken.jsonl: cannot be read"
    (tmp_path / "gap.jsonl").write_text('{"text": "a", "label": "x"}\n{"text": null, "label": "x"}')
    wrong[tmp_path / "gap.jsonl"] = "gap.jsonl: row 2 has no text"
    pair = tmp_path / "pair"
    pair.mkdir()
    table(pair / "train.csv", [("a", "x"), ("b", "y")])
    table(pair / "test.csv", [("a", "x"), ("b", "z")])
    wrong[pair] = "test.csv: label 'z' is not among the 2 of train.csv"
    for path, told in wrong.items():
        with pytest.raises(DataError) as caught:
            load(path)
        assert told in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    assert len(wrong) == 9


# WordNet


def nouns(per_kind: int) -> str:
    lines = ["  1 This software and database is being provided to you"]
    for kind in ("06", "18", "03"):
        for number in range(per_kind):
            gloss = f"gloss {number} of {kind}; " + '"as in an example"'
            lines.append(f"0000{number:04d} {kind} n 01 word 0 000 | {gloss}  ")
    lines.append('00009999 06 n 01 twin 0 000 | gloss 0 of 06; "as in an example"  ')
    return "\n".join(lines) + "\n"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a file like WordNet's can be fetched to."""
    import hashlib

    content = nouns(8).encode()

    def get(scratch: Path) -> dict[str, Path]:
        (scratch / "data.noun").write_bytes(content)
        return {"data.noun": scratch / "data.noun"}

    made = replace(
        wordnet.FILES,
        files=(File("data.noun", hashlib.sha256(content).hexdigest()),),
        links=(Link("made here", get),),
    )
    monkeypatch.setattr(wordnet, "FILES", made)
    return tmp_path


def test_glosses_are_drawn_for_each_kind(root: Path) -> None:
    source = WordNet(WordNetOptions(classes=2, train_per_class=5, test_per_class=3))
    assert source.where(root) is None
    known, note = source.outline(root)
    assert note == "wordnet is not here yet: checked without it"
    said: list[str] = []
    source.fetch(root, said.append)
    assert said[-1].startswith("wordnet: fetched from made here to ")
    data = source.load(root)
    assert data.class_names == known.class_names == ("artifact", "person")
    assert data.y_train.tolist() == [0] * 5 + [1] * 5
    assert data.y_test.tolist() == [0] * 3 + [1] * 3
    drawn = [*texts_of(data.x_train), *texts_of(data.x_test)]
    assert sorted(drawn) == sorted(
        f'gloss {number} of {kind}; "as in an example"'
        for kind in ("06", "18")
        for number in range(8)
    )
    again = WordNet(WordNetOptions(classes=2, train_per_class=5, test_per_class=3))
    assert torch.equal(again._load(root).x_train, data.x_train)


def test_a_text_that_stands_twice_counts_once(root: Path) -> None:
    """Else a text to test with might be one that was trained with."""
    source = WordNet(WordNetOptions(classes=2, train_per_class=6, test_per_class=3))
    with pytest.raises(DataError, match="holds 8 texts of artifact"):
        source.load(root)


def test_a_damaged_file_is_fetched_anew(root: Path) -> None:
    source = WordNet(WordNetOptions(classes=2, train_per_class=5, test_per_class=3))
    (root / "wordnet").mkdir()
    (root / "wordnet/data.noun").write_text("damaged")
    source.fetch(root)
    assert source.load(root).classes == 2


def test_the_kinds_are_those_with_the_most_texts() -> None:
    assert len(KINDS) == len(set(KINDS.values())) == 21
    assert make_source("wordnet").classes == 21


# Zhang et al. 2015


def write_csv(root: Path, train: str, test: str) -> Path:
    folder = root / "ag_news_csv"
    folder.mkdir(exist_ok=True)
    (folder / "train.csv").write_text(train, "utf-8")
    (folder / "test.csv").write_text(test, "utf-8")
    return folder


def ag_news(**options: int | None) -> AgNews:
    return AgNews(ZhangOptions(**options))


def test_classes_count_from_one_and_columns_are_joined(tmp_path: Path) -> None:
    rows = [f'"{1 + n % 4}","Title {n}","He said ""so"" \\n and left"' for n in range(12)]
    write_csv(tmp_path, "\n".join(rows), "\n".join(rows[:4]))
    data = ag_news(train_per_class=None).load(tmp_path)
    assert data.class_names == ("World", "Sports", "Business", "Sci/Tech")
    assert data.y_train.tolist() == [n % 4 for n in range(12)]
    assert texts_of(data.x_train)[2] == 'Title 2 He said "so" \n and left'
    assert data.y_test.tolist() == [0, 1, 2, 3]
    drawn = ag_news(train_per_class=2).load(tmp_path)
    assert sorted(drawn.y_train.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert set(texts_of(drawn.x_train)) < set(texts_of(data.x_train))
    write_csv(tmp_path, "\n".join(rows[:8]), "\n".join(rows[:4]))
    assert len(ag_news(train_per_class=None).load(tmp_path).y_train) == 8


def test_what_is_wrong_with_them_is_one_line(tmp_path: Path) -> None:
    known, note = ag_news().outline(tmp_path)
    assert (known.classes, note) == (4, "ag-news is not here yet: checked without it")
    good = "1,a\n2,b\n3,c\n4,d\n"
    wrong = {
        "class,text\n": "train.csv: row 1 is no class and text: class,text",
        good + "5,e\n": "train.csv: row 5 has class 5, not 1..4",
        "1\n": "train.csv: row 1 is no class and text: 1",
    }
    with pytest.raises(DataError, match=r"of Zhang et al\. 2015 are not in"):
        ag_news().load(tmp_path)
    for train, told in wrong.items():
        write_csv(tmp_path, train, good)
        with pytest.raises(DataError) as caught:
            ag_news().load(tmp_path)
        assert str(caught.value).endswith(told)
    (tmp_path / "ag_news_csv/train.csv").write_bytes(b"1,\xff\n")
    with pytest.raises(DataError, match="is no CSV in UTF-8"):
        ag_news().load(tmp_path)
