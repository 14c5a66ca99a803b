"""A method and a data set in a package of their own, as their author and users meet them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.commands

METHOD = """
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lora_cl.methods.shared import SharedBackbone, SharedBackboneOptions
from lora_cl.options import OptionsBase


class L2Options(SharedBackboneOptions):
    strength: float = Field(default=1.0, ge=0.0)


class L2(SharedBackbone):
    Options: ClassVar[type[OptionsBase]] = L2Options
    summary: ClassVar[str] = "all weights are tied to where the last task left them"

    def learn(self, task, fit):
        fit([task])
        self.kept = {k: v.detach().clone() for k, v in self.shared_parameters().items()}

    def penalty(self) -> Tensor | None:
        if not self.kept:
            return None
        moved = [(p - self.kept[k]).square().sum() for k, p in self.shared_parameters().items()]
        return self.options.strength / 2 * torch.stack(moved).sum()


class NoMethod:
    pass
"""
DATA = """
import torch
from pydantic import Field

from lora_cl.data.source import Dataset, Source, tensor_checksum
from lora_cl.options import OptionsBase


class StripesOptions(OptionsBase):
    width: int = Field(default=8, ge=4)


class Stripes(Source):
    name = "stripes"
    Options = StripesOptions
    summary = "noise with a bright row; which row is the class"
    origin = "bundled"
    classes = 4

    def where(self, root):
        return root

    def _load(self, root):
        noise = torch.Generator().manual_seed(0)
        y = torch.arange(4).repeat(20)
        x = torch.rand(80, self.options.width, generator=noise)
        x[torch.arange(80), y] += 3
        parts = (x, y, x[:40].clone(), y[:40].clone())
        return Dataset("stripes", *parts, 4, ("a", "b", "c", "d"), tensor_checksum(*parts))
"""
ENTRY_POINTS = """
[lora_cl.methods]
l2 = stripes_and_l2.l2:L2
lora = stripes_and_l2.l2:L2
broken = stripes_and_l2.broken:Nothing
wrong = stripes_and_l2.l2:NoMethod

[lora_cl.datasets]
stripes = stripes_and_l2.data:Stripes
gone = stripes_and_l2.broken:Nothing
"""
CONFIG = """
name: theirs
benchmark: {name: split, dataset: {name: stripes, width: 6}, tasks: 2}
model: {hidden: [8]}
train: {epochs: 2, batch_size: 8, lr: 0.01}
methods:
  l2: {strength: 0.5}
  full:
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the package installed beside it, as pip would lay it out."""
    site = tmp_path / "site"
    package, info = site / "stripes_and_l2", site / "stripes_and_l2-1.0.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").write_text("")
    (package / "l2.py").write_text(METHOD)
    (package / "data.py").write_text(DATA)
    (package / "broken.py").write_text("import no_such_module\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stripes-and-l2\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "c.yaml").write_text(CONFIG)
    return tmp_path


def lora_cl(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = python(place, "-m", "lora_cl", *arguments)
    assert "Traceback" not in done.stdout + done.stderr
    return done


def python(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(place / "site"), str(root)])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=place,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_they_are_listed_and_in_the_schema(place: Path) -> None:
    methods = lora_cl(place, "list", "methods")
    assert methods.returncode == 0
    lines = {line.split()[0]: line for line in methods.stdout.splitlines()}
    assert "all weights are tied" in lines["l2"]
    assert lines["l2"].endswith("(from stripes_and_l2)")
    assert "low-rank adapter" in lines["lora"]
    assert not {"broken", "wrong"} & lines.keys()
    assert sorted(methods.stderr.splitlines()) == [
        "error: method broken of stripes-and-l2: cannot be imported: "
        "ModuleNotFoundError: No module named 'no_such_module'",
        "error: method lora of stripes-and-l2 (stripes_and_l2.l2:L2): the name is taken",
        "error: method wrong of stripes-and-l2: is not a class derived from "
        "lora_cl.methods.method.Method",
    ]
    for arguments in (("list", "datasets"), ("data", "list")):
        datasets = lora_cl(place, *arguments)
        assert datasets.returncode == 0
        assert "stripes" in datasets.stdout
        assert datasets.stderr == (
            "error: data set gone of stripes-and-l2: cannot be imported: "
            "ModuleNotFoundError: No module named 'no_such_module'\n"
        )
    schema = json.loads(lora_cl(place, "schema").stdout)
    assert "strength" in schema["$defs"]["lora_cl.methods.l2"]["properties"]
    assert "train" in schema["$defs"]["lora_cl.methods.l2"]["properties"]
    assert "width" in schema["$defs"]["lora_cl.datasets.stripes"]["properties"]
    assert "l2" in schema["properties"]["methods"]["properties"]


def test_they_run_and_are_compared(place: Path) -> None:
    for jobs in ("0", "2"):
        ran = lora_cl(place, "run", "c.yaml", "--jobs", jobs, "--results", jobs)
        assert ran.returncode == 0, ran.stderr
        assert "2 runs: 2 done" in ran.stderr
    records = [next((place / jobs).glob("theirs/l2/*/result.json")) for jobs in ("0", "2")]
    one, other = (json.loads(record.read_text()) for record in records)
    assert one["accuracy_matrix"] == other["accuracy_matrix"]
    assert one["method"] == "l2"
    assert len(one["content"]["method.code"]) == 64
    (full,) = (place / "0").glob("theirs/full/*/result.json")
    assert "method.code" not in json.loads(full.read_text())["content"]
    again = lora_cl(place, "run", str(records[0].with_name("config.yaml")), "--results", "0")
    assert "1 runs: 1 done" in again.stderr
    assert "learned" not in again.stderr
    table = lora_cl(place, "compare", "0")
    assert [line.split()[0] for line in table.stdout.splitlines() if line.startswith("l2")]
    # Another version of the package is another run.
    with (place / "site/stripes_and_l2/l2.py").open("a") as file:
        file.write("\n# A change.\n")
    assert lora_cl(place, "run", "c.yaml", "--results", "0").returncode == 0
    assert len(list((place / "0/theirs/l2").iterdir())) == 2
    assert len(list((place / "0/theirs/full").iterdir())) == 1


def test_they_go_by_import_path_too(place: Path) -> None:
    """From the current directory, with nothing installed."""
    (place / "site/stripes_and_l2").rename(place / "mine")
    text = CONFIG.replace("l2: {strength", "tied: {method: 'mine.l2:L2', strength")
    (place / "c.yaml").write_text(text.replace("name: stripes", "name: 'mine.data:Stripes'"))
    ran = lora_cl(place, "run", "c.yaml", "--results", "r", "--jobs", "2")
    assert ran.returncode == 0, ran.stderr
    (record,) = (place / "r").glob("theirs/tied/*/result.json")
    assert json.loads(record.read_text())["method"] == "mine.l2:L2"
    (place / "one.yaml").write_text(
        "name: one\nbenchmark: {name: split, dataset: digits, tasks: 5}\nmethod: mine.l2:L2\n"
    )
    assert lora_cl(place, "validate", "one.yaml").stdout == "one.yaml: valid, 1 runs\n"


WRONG = {
    "methods.l2.strenth=1": "methods.l2.strenth: unknown key (did you mean 'strength'?)",
    "methods.l2.strength=-1": "strength: -1 is not allowed: it should be greater than or equal",
    "methods.l2.method=l3": "nothing here is called 'l3' (did you mean 'l2'?); allowed: adalora",
    "benchmark.dataset.width=3": "width: 3 is not allowed: it should be greater than or equal",
    "benchmark.dataset=stripe": "nothing here is called 'stripe' (did you mean 'stripes'?)",
    "methods.l2.method=broken": "methods.l2: method broken of stripes-and-l2: cannot be imported",
    "methods.l2.method=wrong": "is not a class derived from lora_cl.methods.method.Method",
    "methods.l2.method=no.such:L2": "method no.such:L2: cannot be imported: ModuleNotFoundError",
    "methods.l2.method=json:dump": "method json:dump: is not a class derived from lora_cl.method",
    "methods.l2.method=stripes_and_l2.l2:L3": "stripes_and_l2.l2 has no L3 (did you mean 'L2'?)",
}
ASK = """
import json, sys
from typer.testing import CliRunner
from lora_cl.cli.commands import app
found = {}
for override in json.loads(sys.argv[1]):
    done = CliRunner().invoke(app, ["validate", "c.yaml", "-o", override])
    found[override] = [done.exit_code, done.stderr]
print(json.dumps(found))
"""


def test_what_is_wrong_is_one_line(place: Path) -> None:
    done = python(place, "-c", ASK, json.dumps(list(WRONG)))
    found = json.loads(done.stdout)
    assert found.keys() == WRONG.keys()
    for override, (code, said) in found.items():
        assert code == 2, override
        assert WRONG[override] in said
        assert len(said.splitlines()) == 1


def test_their_contract_is_a_line_each(place: Path) -> None:
    (place / "test_mine.py").write_text(
        "from lora_cl.testing import method_contract, source_contract\n"
        'TestL2 = method_contract("stripes_and_l2.l2:L2")\n'
        'TestStripes = source_contract("stripes", "width: 6")\n'
    )
    quick = "(recorded and class) or state or sources or tensors or loading"
    tests = python(place, "-m", "pytest", "-q", "-k", quick, "-p", "no:cacheprovider")
    assert tests.returncode == 0, tests.stdout[-3000:]
    # A class that forgets what it learned does not pass.
    l2 = place / "site/stripes_and_l2/l2.py"
    forgetful = "    def load_state_dict(self, state):\n        pass\n\n    def learn("
    l2.write_text(l2.read_text().replace("    def learn(", forgetful))
    tests = python(place, "-m", "pytest", "-q", "-k", "state and class", "-p", "no:cacheprovider")
    assert tests.returncode == 1
    assert "4 failed" in tests.stdout
