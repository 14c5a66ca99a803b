"""The page in a real browser: nothing overflows, nothing complains, on a phone and on a desk."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
from page_cases import LOSES, STEADY, seeds

from lora_cl.report import comparisons
from lora_cl.report.page import report_html

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
LONG = "a-label-of-very-many-letters-that-no-table-has-the-room-for"
FRAME = """<iframe src="page.html" width="{width}" height="900"></iframe><pre></pre><script>
onload = () => {{
  const inside = document.querySelector("iframe").contentWindow;
  const root = inside.document.documentElement;
  const wide = [...root.querySelectorAll("svg, p, li, h1, h2, h3, h4, .scroll, figcaption")]
    .filter(one => one.getBoundingClientRect().right > inside.innerWidth);
  document.querySelector("pre").textContent = JSON.stringify({{
    room: inside.innerWidth, taken: root.scrollWidth, wide: wide.map(one => one.outerHTML),
    page: inside.getComputedStyle(inside.document.body).backgroundColor,
    axis: inside.getComputedStyle(root.querySelector("svg text")).fill,
  }});
}};</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_overflows_and_nothing_complains(width: int, dark: bool, tmp_path: Path) -> None:
    for label in ("keeps", LONG):
        seeds(tmp_path / "r", label, [STEADY] * 2)
    seeds(tmp_path / "r", "loses", [LOSES] * 2)
    (tmp_path / "page.html").write_text(report_html(comparisons([tmp_path / "r"]), LONG, "1"))
    (tmp_path / "frame.html").write_text(FRAME.format(width=width))
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
            "--disable-background-networking", "--allow-file-access-from-files",
            "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'browser'}", *scheme,
            "--window-size=1600,1000", (tmp_path / "frame.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )  # fmt: skip
    (text,) = re.findall(r"<pre>(.*?)</pre>", done.stdout, re.S)
    found = json.loads(unescape(text))
    assert found["wide"] == []
    assert found["taken"] <= found["room"] <= width
    assert "CONSOLE" not in done.stderr
    dark_page = (found["page"], found["axis"]) == ("rgb(20, 23, 27)", "rgb(230, 232, 234)")
    light_page = (found["page"], found["axis"]) == ("rgb(255, 255, 255)", "rgb(27, 29, 32)")
    assert dark_page if dark else light_page
