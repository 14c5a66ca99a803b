"""Every option says what it means: in the schema, in lists, and on the page made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import pytest
from process_cases import ask
from pydantic import Field

from lora_cl.config import config_schema
from lora_cl.config.describing import options
from lora_cl.config.model import BaseOptions, Config, PretrainOptions
from lora_cl.config.reference import REGISTRIES, reference
from lora_cl.config.train import MethodTraining, OwnTrain, TrainOptions
from lora_cl.methods.shared import LowRankOptions
from lora_cl.options import OptionsBase

ROOT = Path(__file__).parents[2]


class Base(OptionsBase):
    first: int = 1
    """Said in
    two lines."""
    second: float | None = Field(default=None, gt=0.0)


class Derived(Base):
    """A docstring is no text of an option."""

    second: float | None = Field(default=None, gt=0.5, le=2.0)
    """Said below."""
    third: Annotated[list[int], Field(min_length=2)]
    which: Literal["a", "b"] = "a"
    """Of a and b."""


def test_texts_bounds_and_defaults_are_read_from_the_code() -> None:
    found = {one.name: (one.default, one.allowed, one.meaning) for one in options(Derived)}
    assert found == {
        "first": ("1", "integer", "Said in two lines."),
        "second": ("null", "`null`, number > 0.5, ≤ 2", "Said below."),
        "third": (None, "list of at least 2: integer", ""),
        "which": ("a", "`a`, `b`", "Of a and b."),
    }


PARTS = [(kind, name) for kind, parts in REGISTRIES.items() for name in parts]


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_every_option_of_every_part_has_a_meaning(kind: str, name: str) -> None:
    part = REGISTRIES[kind][name]
    assert [one.name for one in options(part.Options) if not one.meaning] == []


def test_every_other_key_has_a_meaning() -> None:
    looked = 0
    for model in (Config, BaseOptions, PretrainOptions, TrainOptions, LowRankOptions):
        found = options(model)
        assert [one.name for one in found if not one.meaning] == []
        looked += len(found)
    assert looked > 30
    assert [one.name for one in options(MethodTraining) if not one.meaning] == []
    # What a method overrides means what it means for all.
    shared = {one.name: one.meaning for one in options(TrainOptions)}
    assert {one.name: one.meaning for one in options(OwnTrain)} == shared


def test_the_schema_tells_an_editor() -> None:
    schema = config_schema()
    (rank,) = [
        node["properties"]["rank"] for name, node in schema["$defs"].items() if name == "lora_lora"
    ]
    assert rank["description"] == "r of A (r, d_in) and B (d_out, r)."
    assert schema["properties"]["seeds"]["description"].startswith("A number of seeds")
    described = [
        "description" in node
        for part in (schema, *schema["$defs"].values())
        for node in part.get("properties", {}).values()
    ]
    assert all(described)
    assert len(described) > 250
    json.dumps(schema)


def test_the_page_is_that_of_the_code() -> None:
    page = (ROOT / "docs" / "reference.md").read_text("utf-8")
    assert page == reference(), "python -m lora_cl.config.reference > docs/reference.md"
    for _, name in PARTS:
        assert f"### `{name}`\n" in page


def test_one_part_is_listed_with_its_options() -> None:
    code, out, err = ask("list", "methods", "lora")
    assert (code, err) == (0, "")
    assert out.startswith("One low-rank adapter and one head per task, the base frozen.\n")
    assert "Hu et al. 2021, arXiv 2106.09685" in out
    assert "  rank: integer 1 to 65536; default 8\n      r of A (r, d_in) and B" in out
    assert "required" in ask("list", "benchmarks", "split")[1]
    assert ask("list", "configs", "smoke")[1] == (ROOT / "configs/smoke.yaml").read_text("utf-8")
    code, out, err = ask("list", "models", "vti")
    assert (code, out) == (2, "")
    assert "(did you mean 'vit'?)" in err
