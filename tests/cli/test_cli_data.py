"""`data` and `cache`: what is here, and what can be made again."""

from __future__ import annotations

from pathlib import Path

from process_cases import ask


def test_what_is_kept_is_listed_and_cleared_and_nothing_else(tmp_path: Path) -> None:
    names = [f"{number:064x}.safetensors" for number in range(3)]
    kept = [
        tmp_path / "features/one" / names[0],
        tmp_path / "features/two" / names[1],
        tmp_path / "bases" / names[2],
    ]
    mine = [tmp_path / "features/two/notes.txt", tmp_path / "bases/mine.safetensors"]
    for file in (*kept, *mine):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * 1500)
    (tmp_path / "bases" / f"{9:064x}.safetensors").symlink_to(mine[0])
    code, out, err = ask("cache", "list", "--data-dir", tmp_path)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert [line[:5] for line in lines[:2]] == [
        ["features", "2", "files", "3.00", "kB"],
        ["bases", "1", "files", "1.50", "kB"],
    ]
    code, out, err = ask("cache", "clear", "features", "--data-dir", tmp_path)
    assert (code, out, err) == (0, "features: 2 files removed, 3.00 kB\n", "")
    assert not (tmp_path / "features/one").exists()
    assert [file.exists() for file in kept] == [False, False, True]
    code, out, _ = ask("cache", "clear", "--data-dir", tmp_path)
    assert out.splitlines()[1] == "bases: 1 files removed, 1.50 kB"
    assert all(file.exists() for file in mine)
    assert len(list((tmp_path / "bases").iterdir())) == 2
    code, out, err = ask("cache", "clear", "feature", "--data-dir", tmp_path)
    assert (code, out) == (2, "")
    known = "features, bases, targets (did you mean 'features'?)"
    assert err == f"error: cache clear feature: is not one of {known}\n"
