"""Paths and numbers of a config, as far as they can be judged by themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from lora_cl.options import OptionsBase, PathOption, user_path


def test_a_home_directory_is_put_in_for_the_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert user_path("~/a/b") == Path("/home/me/a/b")
    assert user_path(Path("~")) == Path("/home/me")
    assert user_path("~root/x") == Path("/root/x")
    assert user_path("a/~/b") == Path("a/~/b")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("", "is empty; a path is needed"),
        ("a\0b", "holds a NUL character, which no path can hold"),
        ("\ud800", "holds a character that no path can hold"),
        ("~nosuchuser/x", "~nosuchuser/x: there is no user nosuchuser here; write the whole path"),
    ],
)
def test_what_no_file_can_be_called_is_refused(path: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        user_path(path)


class Options(OptionsBase):
    path: PathOption = Path("a")
    number: int = 0
    numbers: tuple[int, ...] = ()
    factor: float = 0.0


def test_a_path_stays_as_it_is_written() -> None:
    options = Options.model_validate({"path": "~/x"})
    assert options.path == Path("~/x")
    assert options.model_dump(mode="json")["path"] == "~/x"
    with pytest.raises(ValidationError, match="there is no user nosuchuser here"):
        Options.model_validate({"path": "~nosuchuser"})


def test_whole_numbers_have_a_largest_one() -> None:
    most = 2**31 - 1
    options = Options(number=most, numbers=(most, -most), factor=2**70)
    assert (options.number, options.numbers, options.factor) == (most, (most, -most), 2.0**70)
    refused = [{"number": most + 1}, {"number": -most - 1}, {"numbers": (1, most + 1)}]
    for value in refused:
        with pytest.raises(ValidationError, match="should be at most 2147483647"):
            Options.model_validate(value)
    assert len(refused) == 3
