"""What makes a class of another package a part, and what tells that its code has changed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lora_cl import plugins
from lora_cl.benchmarks import BENCHMARKS
from lora_cl.config import parse_config
from lora_cl.data import DATASETS
from lora_cl.errors import ConfigError, ResultsError
from lora_cl.methods import METHODS
from lora_cl.models import BACKBONES
from lora_cl.plugins import Parts, code_of
from lora_cl.running.loading import load_run
from lora_cl.running.preparation import prepare
from lora_cl.running.runner import Where, run_one
from lora_cl.testing.runs import run_done

METHOD = """
from lora_cl.methods.shared import SharedBackbone

class Mine(SharedBackbone):
    summary = "mine"
"""
CONFIG = """
name: p
benchmark: {{name: split, tasks: 2, dataset: {{name: synthetic, classes: 4, features: 6}}}}
methods: {{mine: {{method: '{method}'}}}}
"""

Write = Callable[[dict[str, str]], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes modules below the current directory; afterwards none of them was ever imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    before = set(sys.modules)

    def written(files: dict[str, str]) -> None:
        for name, text in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        forget()

    def forget() -> None:
        """What is imported next is read anew."""
        for name in set(sys.modules) - before:
            if str(getattr(sys.modules[name], "__file__", None) or tmp_path).startswith(
                str(tmp_path)
            ):
                del sys.modules[name]
        plugins._code_below.cache_clear()
        for parts in (METHODS, BENCHMARKS, DATASETS, BACKBONES):
            parts._found.clear()

    yield written
    forget()


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
        parse_config(text.replace("mine:", "'hinted:Mine':"), "c.yaml")
    assert str(caught.value) == (
        "c.yaml:4: methods.hinted:Mine: an import path needs a label: Mine: {method: 'hinted:Mine'}"
    )


# The code


def code(path: str) -> str | None:
    return code_of(METHODS[path])


def test_our_own_parts_have_no_code_of_their_own() -> None:
    ours = [part for parts in (METHODS, BENCHMARKS, DATASETS, BACKBONES) for part in parts.values()]
    assert {code_of(part) for part in ours} == {None}
    assert len(ours) > 30


LAYOUTS = {
    "a package": ("pack.mine:Mine", {"pack/__init__.py": "", "pack/mine.py": METHOD}, "pack/help"),
    "a folder without __init__": ("bare.mine:Mine", {"bare/mine.py": METHOD}, "bare/deep/help"),
    "a base class elsewhere": (
        "heir:Mine",
        {
            "heir.py": "from parent.mine import Mine as Base\nclass Mine(Base): pass",
            "parent/__init__.py": "",
            "parent/mine.py": METHOD,
        },
        "parent/help",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_code_is_every_module_of_its_packages_and_nothing_else(
    layout: str, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, files, helper = LAYOUTS[layout]
    write(files)
    first = code(path)
    assert first is not None
    assert len(first) == 64
    write({f"{helper}.txt": "no module", "neighbour.py": ""})
    assert code(path) == first
    write({f"{helper}.py": ""})
    with_helper = code(path)
    write({f"{helper}.py": "x = 1"})
    assert len({first, with_helper, code(path)}) == 3
    # Elsewhere it is the same.
    write({f"other/{name}": text for name, text in files.items()})
    sys.path.remove(str(tmp_path))
    monkeypatch.chdir(tmp_path / "other")
    assert code(path) == first


def test_code_in_no_file_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write({"fileless.py": METHOD})
    part = METHODS["fileless:Mine"]
    monkeypatch.setattr(sys.modules["fileless"], "__file__", None)
    with pytest.raises(ConfigError, match="fileless: lies in no file"):
        code_of(part)


def test_a_run_checks_the_code_it_imports(write: Write, tmp_path: Path) -> None:
    """As where a worker imports what was changed after the runs were prepared."""
    write({"checked.py": METHOD})
    (run,) = prepare(parse_config(CONFIG.format(method="checked:Mine"), "c.yaml"), None, print)
    write({"checked.py": METHOD + "# changed\n"})
    outcome = run_one(run, Where(tmp_path / "r"))
    assert outcome.status == "failed"
    assert outcome.message is not None
    assert outcome.message.startswith("method.code: is not what the run was prepared with")


def test_a_finished_run_says_which_part_is_not_there(write: Write, tmp_path: Path) -> None:
    write({"passing.py": METHOD})
    folder = run_done(CONFIG.format(method="passing:Mine"), tmp_path / "r")
    assert load_run(folder).summary == "mine"
    (tmp_path / "passing.py").unlink()
    write({})
    with pytest.raises(ResultsError) as caught:
        load_run(folder)
    assert str(caught.value) == (
        f"{folder / 'result.json'}: its config is not one of this version: method passing:Mine: "
        "cannot be imported: ModuleNotFoundError: No module named 'passing'"
    )


BACKBONE = """
import torch
from torch import nn
from lora_cl.models import Backbone
from lora_cl.options import OptionsBase

class Options(OptionsBase):
    width: int = 4

class Mine(Backbone):
    Options = Options
    summary = "one layer"

    def __init__(self, options, input_shape):
        super().__init__()
        self.layer = nn.Linear(input_shape.numel(), options.width)

    def forward(self, x):
        return torch.tanh(self.layer(x))
"""


def test_a_pretrained_base_is_not_kept_for_other_code(write: Write, tmp_path: Path) -> None:
    overrides = [
        "model='layer:Mine'",
        "base.pretrain={dataset: {name: synthetic, classes: 4, features: 6}}",
    ]
    made = []
    for number, text in enumerate((BACKBONE, BACKBONE, BACKBONE.replace("tanh", "relu"))):
        write({"layer.py": text})
        config = parse_config(CONFIG.format(method="full"), "c.yaml", overrides)
        (run,) = prepare(config, tmp_path / "data", print)
        where = Where(tmp_path / str(number), data_dir=tmp_path / "data")
        assert run_one(run, where).status == "done"
        made.append(len(list((tmp_path / "data/bases").glob("*.safetensors"))))
    assert made == [1, 1, 2]


BENCHMARK = """
import torch
from lora_cl.benchmarks import Benchmark, BenchmarkOptions, Samples

class Mine(Benchmark):
    Options = BenchmarkOptions
    summary = "makes its own samples"
    n_tasks = 2
    input_shape = torch.Size([4])

    @staticmethod
    def dataset_options(options):
        return []

    def task_classes(self, index):
        return 2

    def task(self, index):
        def samples():
            y = torch.arange(40) % 2
            noise = torch.randn(40, 4, generator=torch.Generator().manual_seed(index))
            return Samples(noise + 3 * y[:, None], y)

        return self.make_task(index, str(index), samples, samples)
"""


def test_a_benchmark_may_draw_on_no_data_set(write: Write, tmp_path: Path) -> None:
    write({"own_samples.py": BENCHMARK})
    text = "name: p\nbenchmark: own_samples:Mine\ntrain: {epochs: 5, lr: 0.1}\nmethods: {full: }\n"
    (run,) = prepare(parse_config(text, "c.yaml"), None, print)
    assert len(run.content["benchmark.code"]) == 64
    assert run_one(run, Where(tmp_path / "r")).status == "done"
