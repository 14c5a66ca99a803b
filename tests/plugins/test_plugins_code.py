"""What tells that the code of a part has changed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from plugin_cases import CONFIG, METHOD, Write

from lora_cl.benchmarks import BENCHMARKS
from lora_cl.config import parse_config
from lora_cl.data import DATASETS
from lora_cl.errors import ConfigError, ResultsError
from lora_cl.methods import METHODS
from lora_cl.models import BACKBONES
from lora_cl.plugins import code_of
from lora_cl.running.loading import load_run
from lora_cl.running.preparation import prepare
from lora_cl.running.runner import Where, run_one
from lora_cl.testing.runs import run_done


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
