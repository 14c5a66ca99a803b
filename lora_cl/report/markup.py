"""Tables as markdown and as LaTeX, each text escaped for where it goes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from lora_cl.report.layout import Block, Cell, two_lines

Writer = Callable[[str, Sequence[Block], Sequence[str]], str]

LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    # At the start of a row these would be arguments of the line break before it.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\char34{}",
    "±": r"$\pm$",
    "−": "$-$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "†": r"$^\dagger$",
    "‡": r"$^\ddagger$",
    "§": r"\S{}",
    "·": r"$\cdot$",
    "…": r"\ldots{}",
    "\N{REPLACEMENT CHARACTER}": "?",
}


def markdown(title: str, blocks: Sequence[Block], notes: Sequence[str]) -> str:
    """A heading, one pipe table a block, the notes as a list; the best in bold."""
    parts = [f"### {markdown_text(title)}"]
    for block in blocks:
        ruler = ["---"] + ["---:"] * (len(block.headers) - 1)
        lines = [[markdown_text(header) for header in block.headers], ruler]
        lines += [[_markdown_cell(cell) for cell in row] for row in block.rows]
        parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    parts.append("\n".join(f"- {markdown_text(note)}" for note in notes))
    return "\n\n".join(parts) + "\n"


def latex(title: str, blocks: Sequence[Block], notes: Sequence[str]) -> str:
    """A table environment for the packages booktabs and graphicx, the notes below it.

    The best is in bold. What is wider than the column is made smaller, to fit it. The label is
    ``tab:`` and the letters and digits of the title.
    """
    name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    lines = [r"% needs \usepackage{booktabs,graphicx}", r"\begin{table}", r"\centering\small"]
    lines += [r"\setlength{\tabcolsep}{3pt}", rf"\caption{{{_latex(title)}}}"]
    lines += [rf"\label{{tab:{name}}}"]
    for block in blocks:
        lines += [r"\sbox0{%", rf"\begin{{tabular}}{{l{'r' * (len(block.headers) - 1)}}}"]
        lines += [r"\toprule", " & ".join(map(_latex_header, block.headers)) + r" \\"]
        lines += [r"\midrule", *(" & ".join(map(_latex_cell, row)) + r" \\" for row in block.rows)]
        lines += [r"\bottomrule", r"\end{tabular}}%"]
        lines += [r"\ifdim\wd0>\linewidth\resizebox{\linewidth}{!}{\usebox0}\else\usebox0\fi"]
        lines += [r"\par\medskip"]
    lines.append(r"\begin{minipage}{\linewidth}\footnotesize")
    lines += [_latex(note) + r"\par" for note in notes]
    lines += [r"\end{minipage}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def markdown_text(text: str) -> str:
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~#])", r"\\\1", text)
    # Inside a word an underscore is only an underscore.
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)


def _markdown_cell(cell: Cell) -> str:
    return f"**{markdown_text(cell.text)}**" if cell.best else markdown_text(cell.text)


def _latex(text: str) -> str:
    escaped = "".join(LATEX.get(character, character) for character in text)
    return escaped.replace("--", "-{}-")


def _latex_header(header: str) -> str:
    lines = [_latex(line) for line in two_lines(header)]
    return lines[0] if len(lines) == 1 else rf"\shortstack[r]{{{lines[0]}\\{lines[1]}}}"


def _latex_cell(cell: Cell) -> str:
    text = re.sub(r"^-(?=\d)", "$-$", _latex(cell.text))
    return rf"\textbf{{{text}}}" if cell.best else text
