"""Every file of a run replaced by everything that should not be there, over every command."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile_cases import CHANGES, FILES, cases, runs_of_two, try_all


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_no_file_of_a_run_is_believed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    runs = runs_of_two(tmp_path / "whole")
    tried = 0
    for name, change in cases():
        told = try_all(tmp_path / "whole", runs, name, change, outside)
        print(name, change.__name__, told, flush=True)
        tried += 1
    assert tried == len(FILES) * len(CHANGES) == 81
