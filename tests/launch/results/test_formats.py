"""table1.tex of report.py: what LaTeX would stumble over, and what stands in it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from finished_cells import cells_of, finish, tiny_grid

from launch.grid.cells import GridSettings, read_grid
from launch.report import main


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    return tiny_grid(tmp_path)


def latex_of(words: list[str], name: str = "table1") -> str:
    assert main(words) == 0
    return (read_grid(GridSettings, words)[1].folder / f"{name}.tex").read_text()


def tabular_rows(text: str) -> list[list[str]]:
    """The rows of a tabular, each a list of its fields; one that spans others stands once for each.

    Fails on what LaTeX would stumble over: braces that do not match, rows of other lengths than the
    tabular has columns, special characters that are not escaped, and what is not ASCII.
    """
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    code = "\n".join(line.removesuffix("%") for line in lines)
    bare = re.sub(r"\\\\|\\[{}$&#%_]", "", code)
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    assert bare.isascii()
    assert bare.count("$") % 2 == 0
    outside = re.sub(r"\$[^$]*\$", "", bare)
    assert not set("#%_^~<>|") & set(outside), outside
    for name in ("tabular", "minipage"):
        assert code.count(f"\\begin{{{name}}}") == code.count(f"\\end{{{name}}}") == 1
    columns = re.search(r"\\begin\{tabular\}\{([lr]+)\}", code)
    assert columns
    body = code[columns.end() : code.index(r"\end{tabular}")]
    rows = []
    for line in filter(None, body.splitlines()):
        if not line.endswith(r"\\"):
            assert re.fullmatch(r"\\(top|mid|bottom)rule|\\addlinespace|(\\cmidrule\S+ ?)+", line)
            continue
        row: list[str] = []
        for field in re.split(r"(?<!\\)&", line.removesuffix(r"\\")):
            spanned = re.fullmatch(r"\\multicolumn\{(\d+)\}\{c\}\{(.*)\}", field.strip())
            row += [spanned[2]] * int(spanned[1]) if spanned else [field.strip()]
        assert len(row) == len(columns[1]), line
        rows.append(row)
    return rows


def test_latex_sets_ours_apart_from_the_papers(words: list[str]) -> None:
    words = [*words, "seeds=3"]
    cells = cells_of(words)
    finish(cells["densify-none"], 0.5, 0.5)
    for name, accu in (("densify-ce", 0.40), ("densify-ce-seed1", 0.42)):
        finish(cells[name], accu, 0.6)
    text = latex_of(words)
    over, heads, *rows = tabular_rows(text)
    assert over == ["", "", *["ours"] * 6, *["paper"] * 3]
    assert heads == [
        *("task", "loss", "runs", "accu", "mIoU (19)", "mIoU (all ids)", "FID", "KID"),
        *("accu", "mIoU", "FID"),
    ]
    assert r"\cmidrule(lr){3-8} \cmidrule(l){9-11}" in text
    assert r"% Written by launch/report.py. Needs \usepackage{booktabs}" in text
    assert "% - commit: abc123+dirty" in text
    rows = rows[: [row[0] for row in rows].index("super-resolution 8x")]
    by_loss = {row[1]: row for row in rows}
    assert (
        by_loss["CE"]
        == [
            *("", "CE", r"2 of 3 seeds done$^{1}$", r"41.0 $\pm$ 1.4$^{\dagger}$"),
            *(r"60.0 $\pm$ 0.0", r"60.0 $\pm$ 0.0", r"80.0 $\pm$ 0.0", r"0.0123 $\pm$ 0.0000"),
            *("86.1", "42.1", "70.7"),
        ]
        or by_loss["CE"][0] == ""
    )
    assert by_loss["CE+L1"][2:5] == ["0 of 3 seeds done", *[r"\emph{missing}"] * 2]
    assert by_loss["none (nearest label)"][-3:] == ["--"] * 3
    assert by_loss["none (input as it is)"][:3] == ["densification", "none (input as it is)", "--"]
    notes = text[text.index(r"\end{tabular}") :]
    assert r"$^{1}$ densify-ce: without densify-ce-seed2 (missing)\par" in notes
    assert r"$^{\dagger}$ Trained, but" in notes
    assert r"in \%" in notes


def test_latex_escapes_what_it_prints(words: list[str], tmp_path: Path) -> None:
    path = tmp_path / "50%_of#1&2.yaml"
    path.write_text("rows: {'a_b & 100% {of} ~#1$^\\': {task: densify, loss: ce}}\n")
    words = [*words, f"grid={path}", "seeds=2"]
    first, second = cells_of(words).values()
    finish(first, 0.9, 0.9)
    second.folder.mkdir()
    (second.folder / "metrics.jsonl").write_text('{"num_images": 6, "losses": {}}\n')
    text = latex_of(words, path.stem)
    assert tabular_rows(text)[2][2:4] == ["1 of 2 seeds done$^{1}$", "90.0"]
    escaped = r"a\_b \& 100\% \{of\} \textasciitilde{}\#1\$\textasciicircum{}\textbackslash{}"
    assert rf"$^{{1}}$ {escaped}: without {escaped}-seed1 (stopped 75 \%)\par" in text


def test_latex_of_one_seed_has_no_column_of_runs(words: list[str]) -> None:
    finish(cells_of(words)["synthesis"], None, None, fid=91.25)
    over, heads, synthesis, *_ = tabular_rows(latex_of(words))
    assert over == ["", "", *["ours"] * 5, *["paper"] * 3]
    assert heads[2] == "accu"
    assert synthesis == ["synthesis", *["--"] * 4, "91.2", "0.0123", "--", "--", "62.9"]


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_latex_compiles(words: list[str], tmp_path: Path) -> None:
    words = [*words, "seeds=3"]
    cells = cells_of(words)
    finish(cells["densify-none"], 0.5, 0.5)
    for name, accu in (("densify-ce", 0.40), ("densify-ce-seed1", 0.42)):
        finish(cells[name], accu, 0.6)
    (tmp_path / "table.tex").write_text(latex_of(words))
    (tmp_path / "paper.tex").write_text(
        "\\documentclass{article}\\usepackage{booktabs,graphicx}\\begin{document}\n"
        "\\begin{table}\\resizebox{\\textwidth}{!}{\\input{table}}\\end{table}\n"
        "\\textwidth=30cm \\hsize=30cm \\noindent\\input{table}\n\\end{document}\n"
    )
    program = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "paper.tex"]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert not re.search("Overfull|undefined|Missing", done.stdout), done.stdout
