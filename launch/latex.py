"""The table of a grid in LaTeX, to be \\input as it stands."""

import re

from launch.table import DIGITS, QUOTED, Line, Table

ESCAPES: dict[str, str | int | None] = {character: f"\\{character}" for character in "{}$&#%_"}
ESCAPES |= {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
ESCAPES |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
ESCAPES |= {"±": r"$\pm$", "†": r"$^{\dagger}$", "‡": r"$^{\ddagger}$"}
ESCAPES |= {sign: f"$^{{{digit}}}$" for digit, sign in enumerate(DIGITS)}
"""Character -> what LaTeX must read for it to be printed."""


def latex(table: Table) -> str:
    """A booktabs tabular, ours and the paper's columns apart, with its notes below it.

    The notes are set as wide as the table, which is therefore measured in box 0 first. How the
    figures were made stands in comments, and so does what could not be read: it names paths.
    """
    ours = (["runs"] if table.has_seeds else []) + list(table.ours)
    paper = ["accu", "mIoU", "FID"]
    last = 2 + len(ours)
    comments = [
        table.title,
        r"Written by launch/report.py. Needs \usepackage{booktabs}.",
        r"Too wide? With \usepackage{graphicx}: \resizebox{\textwidth}{!}{\input{...}}",
    ]
    comments += ["Ours:", *(f"- {fact}" for fact in table.facts), f"Paper: {QUOTED}"]
    comments += [f"- {problem}" for problem in table.problems]
    return "\n".join(
        [
            *(f"% {line}" for line in comments),
            r"\begingroup",
            rf"\sbox0{{\begin{{tabular}}{{ll{'r' * len(ours + paper)}}}",
            r"\toprule",
            rf"& & \multicolumn{{{len(ours)}}}{{c}}{{ours}} & \multicolumn{{3}}{{c}}{{paper}} \\",
            rf"\cmidrule(lr){{3-{last}}} \cmidrule(l){{{last + 1}-{last + 3}}}",
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
        lines.append(_joined(_fields(line, table.has_seeds, line.task != last_task)))
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
    return texts + [_field(text) for text in line.paper]


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
