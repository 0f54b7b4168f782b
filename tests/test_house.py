"""What import-linter's contracts (pyproject.toml) cannot say of the house, and that they bite."""

import ast
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from forked import ROOT

OURS = ("maskrestore", "shards", "launch")
LIGHT = ("maskrestore.config", "maskrestore.utils", "shards", "launch")
"""What --help, a dry run and a report wait for."""
PAGES = [
    page for part in (".", "docs", "slurm", "benchmarks") for page in ROOT.glob(f"{part}/*.md")
]
MOST_LINES = 300


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [program, "--no-cache"],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": "", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code and its contracts, to be spoilt."""
    folder = tmp_path_factory.mktemp("house")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for name in OURS:
        ignored = shutil.ignore_patterns("__pycache__", "web")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    return folder


@pytest.mark.parametrize(
    ("path", "line", "complaint"),
    [
        (
            "maskrestore/utils/files.py",
            "import maskrestore.config.settings",
            "utils is not allowed",
        ),
        ("maskrestore/data/prior.py", "import maskrestore.data.degrade", "No cycles are allowed"),
        ("launch/grid/cells.py", "import launch.results.table", "launch.grid is not allowed"),
        ("launch/grid/cells.py", "import accelerate", "accelerate"),
        ("maskrestore/models/spade.py", "def late():\n    import torchvision", "torchvision"),
    ],
)
def test_a_breach_of_the_house_is_found(copied: Path, path: str, line: str, complaint: str) -> None:
    whole = (copied / path).read_text()
    (copied / path).write_text(f"{whole}\n\n{line}\n")
    try:
        done = lint(copied)
    finally:
        (copied / path).write_text(whole)
    assert done.returncode == 1, done.stdout + done.stderr
    broken = done.stdout.partition("Broken contracts")[2]
    assert complaint in " ".join(broken.split())
    assert path.removesuffix(".py").replace("/", ".").split(".")[-1] in broken


def test_programs_and_settings_import_no_torch() -> None:
    program = (
        "import importlib, pkgutil, sys\n"
        f"for name in {LIGHT}:\n"
        "    package = importlib.import_module(name)\n"
        "    for module in pkgutil.walk_packages(package.__path__, name + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "        assert 'torch' not in sys.modules, module.name\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@pytest.mark.slow
def test_no_program_waits_for_what_only_some_settings_need() -> None:
    """torchvision and torch-fidelity take as long to import as torch, for VGG19 and Inception."""
    program = (
        "import sys\n"
        "import maskrestore.inference.restore, maskrestore.training.loop\n"
        "names = {'torchvision', 'torch_fidelity', 'deepspeed', 'torch._dynamo'}\n"
        "assert not names & set(sys.modules), names & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@pytest.mark.parametrize("folder", ["shards", "launch"])
def test_no_program_shadows_a_module(folder: str) -> None:
    """`python launch/x.py` puts launch/ first on sys.path, folders included."""
    taken = set(sys.stdlib_module_names) | (set(packages_distributions()) - set(OURS))
    assert not {path.stem for path in (ROOT / folder).iterdir() if path.stem[0] != "_"} & taken


def test_files_stay_readable() -> None:
    files = [
        path for name in (*OURS, "tests", "benchmarks") for path in (ROOT / name).rglob("*.py")
    ]
    sizes = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {name: size for name, size in sizes.items() if size > MOST_LINES} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_files_that_a_page_names_exist(page: Path) -> None:
    for path in re.findall(r"`((?:[\w.]+/)+\w+\.(?:py|sh|sbatch))`", page.read_text()):
        assert any((folder / path).is_file() for folder in (ROOT, ROOT / "maskrestore")), path


def test_all_stops_of_the_tour_exist() -> None:
    stops = re.findall(r"`([\w/]+\.py): (\w+)`", (ROOT / "docs" / "architecture.md").read_text())
    assert len(stops) > 40
    for path, name in stops:
        file = ROOT / path if path.startswith("launch/") else ROOT / "maskrestore" / path
        tops = ast.parse(file.read_text()).body
        names = {getattr(node, "name", None) for node in tops}
        assigned = [target for node in tops for target in getattr(node, "targets", ())]
        assigned += [node.target for node in tops if isinstance(node, ast.AnnAssign)]
        names |= {getattr(target, "id", None) for target in assigned}
        assert name in names, f"{path}: {name}"


def test_the_house_as_it_is_keeps_its_contracts(copied: Path) -> None:
    done = lint(copied)
    assert done.returncode == 0, done.stdout + done.stderr
