"""What makes a class of another package a part."""

from __future__ import annotations

from pathlib import Path

import pytest
from plugin_cases import CONFIG, METHOD, Write

from lora_cl.benchmarks import BENCHMARKS
from lora_cl.config import parse_config
from lora_cl.data import DATASETS
from lora_cl.errors import ConfigError
from lora_cl.methods import METHODS
from lora_cl.plugins import Parts

BROKEN: dict[str, tuple[Parts, str, str]] = {
    "no summary": (
        METHODS,
        "from lora_cl.methods import Method\nclass Mine(Method): pass",
        "has no text as its class attribute summary",
    ),
    "no options": (
        METHODS,
        "from lora_cl.methods import Method\nclass Mine(Method): summary = 's'",
        "has no Options derived from lora_cl.options.OptionsBase",
    ),
    "options of another kind": (
        METHODS,
        METHOD + "    Options = dict",
        "has no Options derived from lora_cl.options.OptionsBase",
    ),
    "benchmark options that lack the limits": (
        BENCHMARKS,
        "from lora_cl.benchmarks import Split\nfrom lora_cl.options import OptionsBase\n"
        "class Mine(Split): Options = OptionsBase",
        "has no Options derived from lora_cl.benchmarks.benchmark.BenchmarkOptions",
    ),
    "the key that names it": (
        METHODS,
        METHOD + "    class Options(SharedBackbone.Options):\n        method: int = 1",
        "an option cannot be called method: that names the part",
    ),
    "how it is trained": (
        METHODS,
        METHOD + "    class Options(SharedBackbone.Options):\n        train: int = 1",
        "an option cannot be called train: that is how it is trained",
    ),
    "no schema": (
        METHODS,
        f"from collections.abc import Callable\n{METHOD}"
        "    class Options(SharedBackbone.Options):\n        made: Callable[[], int]",
        "its Options have no JSON Schema: PydanticInvalidForJsonSchema",
    ),
    "no origin": (
        DATASETS,
        "from lora_cl.data.synthetic import Synthetic\nclass Mine(Synthetic): origin = None",
        "has no text as its class attribute origin",
    ),
    "abstract": (
        DATASETS,
        "from lora_cl.data import Source\nclass Mine(Source): pass",
        "lacks _load, classes, where",
    ),
    "an exit": (METHODS, "raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
    "an attribute that fails": (
        METHODS,
        "def __getattr__(name): raise OSError(name)",
        "cannot be imported: OSError: Mine",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_part_is_told_in_one_line(case: str, write: Write) -> None:
    parts, text, said = BROKEN[case]
    write({"broken_part.py": text})
    with pytest.raises(ConfigError) as caught:
        parts["broken_part:Mine"]
    assert str(caught.value).startswith(f"{parts.what} broken_part:Mine: {said}")
    assert len(str(caught.value).splitlines()) == 1


def test_a_module_can_be_mended_and_named_again(write: Write) -> None:
    write({"late_part.py": METHOD.replace("Mine", "Other")})
    with pytest.raises(ConfigError, match="has no Mine"):
        METHODS["late_part:Mine"]
    write({"late_part.py": METHOD + "# at last\n"})
    assert METHODS["late_part:Mine"].summary == "mine"


def test_what_an_import_prints_is_no_output(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write({"chatty_part.py": f"print('hello'){METHOD}"})
    assert METHODS["chatty_part:Mine"].summary == "mine"
    assert capsys.readouterr() == ("", "hello\n")


def test_from_a_deleted_directory_a_part_is_not_there(write: Write, tmp_path: Path) -> None:
    write({"gone/x": ""})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "gone")
        (tmp_path / "gone/x").unlink()
        (tmp_path / "gone").rmdir()
        with pytest.raises(ConfigError, match="No module named 'part_of_gone'"):
            METHODS["part_of_gone:Mine"]


def test_hints_reach_into_the_options_of_other_packages(write: Write) -> None:
    write({"hinted.py": METHOD})
    text = CONFIG.format(method="hinted:Mine")
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "c.yaml", ["methods.mine.adapter={name: lora, rnk: 3}"])
    assert str(caught.value).startswith(
        "-o methods.mine.adapter.rnk: unknown key (did you mean 'rank'?); allowed: rank, alpha"
    )
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "c.yaml", ["methods.mine.train={lrr: 3}"])
    assert str(caught.value).startswith(
        "-o methods.mine.train.lrr: unknown key (did you mean 'lr'?); allowed: batch_size"
    )
    (run,) = parse_config(text, "c.yaml", ["methods.mine.train={lr: 3}"]).runs({})
    assert run.resolved["train"]["lr"] == 3.0
    with pytest.raises(ConfigError) as caught:
        parse_config(text.replace("mine:", "'hinted:Mine':"), "c.yaml")
    assert str(caught.value) == (
        "c.yaml:4: methods.hinted:Mine: an import path needs a label: Mine: {method: 'hinted:Mine'}"
    )
