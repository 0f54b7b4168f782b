"""The table as text: Markdown, and LaTeX with booktabs."""

import re
from collections.abc import Sequence

from launch.results.names import PAPER_FIGURES, QUOTED
from launch.results.table import DIGITS, GAINS_TITLE, Line, Table

ESCAPES: dict[str, str | int | None] = {
    **{character: f"\\{character}" for character in "{}$&#%_"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"},
    **{"±": r"$\pm$", "†": r"$^{\dagger}$", "‡": r"$^{\ddagger}$"},
    **{sign: f"$^{{{digit}}}$" for digit, sign in enumerate(DIGITS)},
}
"""Character -> what LaTeX must read for it to be printed."""


def latex(table: Table) -> str:
    """A booktabs tabular, ours and the paper's columns apart, with its notes below it.

    The notes are set as wide as the table, which is therefore measured in box 0 first. How the
    figures were made stands in comments, and so does what could not be read: it names paths.
    """
    ours = (["runs"] if table.has_seeds else []) + list(table.ours)
    paper = list(PAPER_FIGURES.values()) if table.is_quoted else []
    last = 2 + len(ours)
    groups = [
        rf"& & \multicolumn{{{len(ours)}}}{{c}}{{ours}} & \multicolumn{{3}}{{c}}{{paper}} \\",
        rf"\cmidrule(lr){{3-{last}}} \cmidrule(l){{{last + 1}-{last + 3}}}",
    ]
    comments = [
        table.title,
        r"Written by launch/report.py. Needs \usepackage{booktabs}.",
        r"Too wide? With \usepackage{graphicx}: \resizebox{\textwidth}{!}{\input{...}}",
    ]
    comments += ["Ours:", *(f"- {fact}" for fact in table.facts)]
    comments += [f"Paper: {QUOTED}"] if paper else []
    comments += [f"- {problem}" for problem in table.problems]
    return "\n".join(
        [
            *(f"% {line}" for line in comments),
            r"\begingroup",
            rf"\sbox0{{\begin{{tabular}}{{ll{'r' * len(ours + paper)}}}",
            r"\toprule",
            *(groups if paper else ()),
            _joined(["task", "loss", *ours, *paper]),
            r"\midrule",
            *_body(table),
            r"\bottomrule",
            r"\end{tabular}}%",
            r"\begin{minipage}{\wd0}",
            r"\usebox0\par\smallskip\footnotesize\raggedright",
            *(rf"{escape(note)}\par" for note in (*table.notes, *table.footnotes)),
            r"\end{minipage}%",
            r"\endgroup",
            "",
        ]
    )


def _body(table: Table) -> list[str]:
    """The rows, those of one task together, its name in the first of them."""
    lines: list[str] = []
    last_task = ""
    for line in table.lines:
        if lines and line.task != last_task:
            lines.append(r"\addlinespace")
        fields = _fields(line, table.has_seeds, line.task != last_task)
        lines.append(_joined([*fields, *map(_field, line.paper if table.is_quoted else ())]))
        last_task = line.task
    return lines


def _fields(line: Line, has_seeds: bool, with_task: bool) -> list[str]:
    fields = [line.task if with_task else "", line.loss]
    fields += [line.runs] if has_seeds else []
    fields += [] if line.state else line.ours
    texts = [_field(text) for text in fields]
    if line.state:  # longer than a figure: across all of our columns
        state = rf"\emph{{{escape(line.state)}}}"
        texts.append(rf"\multicolumn{{{len(line.ours)}}}{{c}}{{{state}}}")
    return texts


def _field(text: str) -> str:
    """A field; marks stand close to what they mark, and a minus is longer than a hyphen."""
    if text == "-":
        return "--"
    minus = "$-$" if text.startswith("-") else ""
    return minus + escape(re.sub(rf" (?=[†‡{DIGITS}])", "", text.removeprefix("-")))


def _joined(fields: list[str]) -> str:
    return " & ".join(fields) + r" \\"


def escape(text: str) -> str:
    """Text as LaTeX must read it."""
    return text.translate(str.maketrans(ESCAPES))


def markdown(table: Table) -> str:
    """The table as markdown: how it was made, then ours beside the paper's, then notes."""
    heads = ["task", "loss", *(["ours: runs"] if table.has_seeds else [])]
    heads += [f"ours: {name}" for name in table.ours]
    heads += [f"paper: {name}" for name in PAPER_FIGURES.values() if table.is_quoted]
    lines, last_task = [heads], ""
    for line in table.lines:
        fields = ["" if line.task == last_task else line.task, line.loss]
        fields += [line.runs] if table.has_seeds else []
        fields += [f"*{line.state}*", *line.ours[1:]] if line.state else line.ours
        lines.append([*fields, *(line.paper if table.is_quoted else ())])
        last_task = line.task
    text = [f"# {table.title}", "", "**Ours**", "", *(f"- {fact}" for fact in table.facts)]
    text += ["", f"**paper:** {QUOTED}"] if table.is_quoted else []
    text += ["", *_aligned(lines), "", *table.notes]
    text += [f"- {note}" for note in (*table.footnotes, *table.problems)]
    if table.gains:
        text += ["", f"**{GAINS_TITLE}**", "", *_aligned(table.gains)]
    return "\n".join(text) + "\n"


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Markdown lines of a table that can also be read as they are; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for cells in table:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        padded[:2] = [cells[0].ljust(widths[0]), cells[1].ljust(widths[1])]
        lines.append("| " + " | ".join(padded) + " |")
    rule = ["-" * (width - 1) + (":" if i > 1 else "-") for i, width in enumerate(widths)]
    return [lines[0], "| " + " | ".join(rule) + " |", *lines[1:]]
