"""Characters that an encoding lacks, and readers who do not read."""

from __future__ import annotations

import os
import sys
import time

import pytest

from lora_cl import streams


def test_what_an_encoding_lacks_has_a_look_alike() -> None:
    line = "97.87 ± 0.42 ↑ ↓ a − b ── … é\udcff"
    assert line.encode("ascii", streams.PLAINLY) == b"97.87 +-0.42 ^ v a - b -- ... ??"
    assert "±5 ±".encode("ascii", streams.PLAINLY) == b"+-5 +-"
    assert "97.87 ± é ↑".encode("cp1252", streams.PLAINLY) == b"97.87 \xb1 \xe9 ^"


@pytest.mark.skipif(os.name != "posix", reason="elsewhere stderr is left as it is")
def test_a_reader_who_does_not_read_waits_for_us_and_not_we_for_him(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "PATIENCE", 0.1)
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "__stderr__", stream)
        patient = streams.patient(stream)
        assert patient is not None
        assert patient.fileno() == writer
        assert not patient.isatty()
        start = time.monotonic()
        for number in range(200):  # 200 kB: more than any pipe holds.
            patient.write(f"{number:04}".ljust(1023) + "\n")
        assert time.monotonic() - start < 5  # Waits once, not 200 times.
        text = os.read(reader, 10**6).decode()
        arrived = text.count("\n")
        assert 3 < arrived < 200
        patient.write("at last\n")
        text = os.read(reader, 10**6).decode()
        assert text == f"[nobody read; {200 - arrived} lines are lost]\nat last\n"
        os.close(reader)
        patient.write("and nobody is there any more\n")


def test_another_stream_in_the_place_of_stderr_stays_as_it_is() -> None:
    with open(os.devnull, "w") as other:  # noqa: PTH123
        assert streams.patient(other) is other
    assert streams.patient(None) is None
