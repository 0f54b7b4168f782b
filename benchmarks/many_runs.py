"""What hundreds of runs at once cost those who watch them: python -m benchmarks.many_runs

Two programs as users start them. launch/dashboard.py: `runs` exporters on loopback, which answer
what a real one answers while it trains, their run folders, and one open page, which asks again
every five seconds. launch/status.py: a grid of as many cells, once all of them in SLURM's queue and
once all ended without a word, against recorded answers of its commands
(tests/programs/fake_slurm.py), which take no time. Figures: docs/performance.md.
"""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import PositiveInt
from tqdm import tqdm

from benchmarks.fake_exporters import serve_exporters
from benchmarks.side_by_side import conditions
from launch.dashboards.panels import read_panels
from launch.grid.cells import read_grid
from launch.slurm.handover import SubmitConfig
from launch.status import look
from launch.submit import main as submit
from maskrestore.config.cli import run_program
from maskrestore.config.settings import Section, parse
from maskrestore.monitoring.targets import Target, announce, target_path
from maskrestore.utils.errors import UserError
from maskrestore.utils.files import lock

ROOT = Path(__file__).resolve().parents[1]
GRID_SIZE = 20
"""Runs of a grid."""
NUM_LINES = 500
"""Of each metrics.jsonl."""
REFRESH_SECONDS, MOST_SECONDS, PATIENCE = 5.0, 15.0, 4.0
"""Seconds between two looks of the page, at least and at most, and times that it took to get the
answers (launch/web/page.js)."""
SERIES = "progress_ratio|eta_seconds|starts_total|total_loss|state|run_info"
"""What each card shows (launch/web/model.js)."""


class ManyRunsBenchmark(Section):
    """How many, and for how long."""

    runs: PositiveInt = 300
    """Runs, and cells of the grid."""
    seconds: PositiveInt = 60
    """How long the dashboard is watched, after as long again to fill its windows."""
    looks: PositiveInt = 5
    """Looks of status.py, after one that is not measured."""


def make_runs(folder: Path, addresses: Sequence[str], stack: ExitStack) -> None:
    """A run folder and a target for each address, held as a run holds it."""
    for number, address in enumerate(addresses):
        run = folder / f"grid-{number // GRID_SIZE}" / f"run-{number % GRID_SIZE}"
        stack.enter_context(lock(run))
        (run / "config.yaml").write_text("task: densify\n")
        (run / "starts").write_text("1")
        with open(run / "metrics.jsonl", "w") as file:
            for line in range(NUM_LINES):
                facts = {"num_images": 64 * line, "total_images": 100_000, "images_per_second": 40}
                file.write(json.dumps(facts | {"losses": {"ce": 1.5, "vgg": 2.5}}) + "\n")
        labels = {"grid": run.parent.name, "run": run.name, "node": "here", "instance": "here"}
        announce(Target(target_path(folder / "targets", run, "here"), address, labels))


@contextmanager
def exporters(number: int) -> Iterator[list[str]]:
    """Addresses that answer like runs, from a process of their own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve_exporters, args=(theirs, number), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.kill()
        process.join()


@contextmanager
def dashboard(runs: Path) -> Iterator[tuple[str, int, int]]:
    """Its address, its process and that of its Prometheus. UserError if there is none."""
    command = [sys.executable, "launch/dashboard.py", f"runs={runs}", "port=0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        lines = iter(process.stdout or ())
        url = next((line for line in lines if line.startswith("http")), "").split(" ")[0]
        if not url:
            raise UserError("launch/dashboard.py did not start")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield url, process.pid, int(children[0])
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def cpu_seconds(pid: int) -> float:
    """That a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Page:
    """An open page of the dashboard that shows all runs."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.seconds: dict[str, list[float]] = {}
        """Of each question, or kind of questions, at each refresh."""

    def ask(self, path: str, **parameters: object) -> Any:
        """The JSON that is there."""
        words = {name: str(value) for name, value in parameters.items()}
        where = f"{self._url}{path}?{urllib.parse.urlencode(words)}"
        with urllib.request.urlopen(where, timeout=60) as answer:  # noqa: S310 - ours
            return json.load(answer)

    def query(self, expr: str) -> list[float]:
        """The values of an expression now."""
        result = self.ask("api/v1/query", query=expr)["data"]["result"]
        return [float(entry["value"][1]) for entry in result]

    def refresh(self) -> None:
        """What launch/web asks every five seconds where all runs are shown, one after the other."""
        took: dict[str, float] = {}

        def ask(kind: str, path: str, **parameters: object) -> None:
            began = time.perf_counter()
            self.ask(path, **parameters)
            took[kind] = took.get(kind, 0.0) + time.perf_counter() - began

        now = int(time.time())
        window = {"start": now - 900, "end": now, "step": 8}
        ask("runs", "runs.json")
        ask("cards", "api/v1/targets", state="active")
        ask("cards", "api/v1/alerts")
        ask("cards", "api/v1/query", query=f'{{__name__=~"maskrestore_({SERIES})"}}')
        speeds = "sum by (grid, run) (rate(maskrestore_images_total[30s]))"
        ask("cards", "api/v1/query", query=speeds)
        losses = "max by (grid, run) (maskrestore_total_loss)"
        ask("cards", "api/v1/query_range", query=losses, **window)
        for panel in read_panels().grid:
            for query in panel.queries:
                expr = query.expr.replace("$__rate_interval", "30s").replace("$grid", ".+")
                is_number = panel.kind == "number"
                path = "api/v1/query" if is_number else "api/v1/query_range"
                ask("panels", path, query=expr, **({} if is_number else window))
        for kind, seconds in took.items():
            self.seconds.setdefault(kind, []).append(seconds)


def watch(page: Page, seconds: float, title: str) -> None:
    """Keep the page open for so long."""
    end = time.monotonic() + seconds
    with tqdm(desc=title, leave=False) as bar:
        while time.monotonic() < end:
            began = time.monotonic()
            page.refresh()
            bar.update()
            took = time.monotonic() - began
            time.sleep(max(REFRESH_SECONDS, min(MOST_SECONDS, PATIENCE * took)))


def measure_dashboard(config: ManyRunsBenchmark, folder: Path) -> Iterator[tuple[str, str]]:
    """What is measured, and the figure."""
    with ExitStack() as stack:
        addresses = stack.enter_context(exporters(config.runs))
        make_runs(folder, addresses, stack)
        url, program, prometheus = stack.enter_context(dashboard(folder))
        page = Page(url)
        watch(page, config.seconds, "warming up")
        page.seconds.clear()
        before, began = [cpu_seconds(pid) for pid in (program, prometheus)], time.monotonic()
        watch(page, config.seconds, "watching")
        passed = time.monotonic() - began
        used = [cpu_seconds(p) - b for p, b in zip((program, prometheus), before, strict=True)]
        names = {"runs": "`/runs.json`", "cards": "the cards' questions", "panels": "the graphs'"}
        for kind, name in names.items():
            took = page.seconds[kind]
            yield f"page: {name}", f"{1000 * median(took):.0f} ms (at most {1000 * max(took):.0f})"
        yield "dashboard.py: CPU", f"{100 * used[0] / passed:.0f} % of a core"
        yield "Prometheus: CPU", f"{100 * used[1] / passed:.0f} % of a core"
        durations = page.query("scrape_duration_seconds")
        longest = 1000 * max(durations)
        yield "a scrape", f"{1000 * median(durations):.1f} ms (at most {longest:.0f})"
        samples = sum(page.query("scrape_samples_scraped"))
        yield "samples", f"{samples:.0f} a round of scrapes, {len(durations)} targets"
        made = sum(page.query(f"sum(count_over_time(up[{config.seconds}s]))"))
        pause = page.ask("panels.json")["scrape_seconds"]
        due = config.runs * config.seconds / pause
        yield "scrapes made of those due", f"{100 * made / due:.0f} %"
        groups = page.ask("api/v1/rules")["data"]["groups"]
        rules = sum(group["evaluationTime"] for group in groups)
        yield "rules and alerts", f"{1000 * rules:.0f} ms, every {groups[0]['interval']:g} s"


@contextmanager
def fake_slurm(folder: Path) -> Iterator[Path]:
    """SLURM's commands with recorded answers in PATH; the folder of their state."""
    programs, state = folder / "programs", folder / "state"
    programs.mkdir(parents=True)
    state.mkdir()
    text = (ROOT / "tests" / "programs" / "fake_slurm.py").read_text().partition("\n")[2]
    for name in ("sbatch", "squeue", "sinfo", "scancel", "sacct", "scontrol"):
        (programs / name).write_text(f"#!{sys.executable} -S\n{text}")
        (programs / name).chmod(0o755)
    before = dict(os.environ)
    os.environ |= {"PATH": f"{programs}:{before['PATH']}", "FAKE_SLURM": str(state)}
    try:
        yield state
    finally:
        os.environ.clear()
        os.environ.update(before)


def measure_status(config: ManyRunsBenchmark, folder: Path) -> Iterator[tuple[str, str]]:
    """What is measured, and the figure."""
    path = folder / "many.yaml"
    rows = {f"cell-{number}": {"task": "densify", "loss": "none"} for number in range(config.runs)}
    path.write_text(json.dumps({"rows": rows}))
    words = [f"grid={path}", f"runs={folder / 'runs'}", f"data.shards={folder / 'shards'}"]
    words += ["generator.path=generator.pth"]
    with fake_slurm(folder) as state, redirect_stdout(StringIO()):
        (state / "accounting.json").write_text(json.dumps([["NODE_FAIL", "n1"]]))
        submit(words)
        _, grid = read_grid(SubmitConfig, words)
        for what in ("queued", "ended"):
            if what == "ended":
                (state / "jobs.json").write_text("[]")
            seconds = []
            calls: list[str] = []
            for _ in tqdm(range(config.looks + 1), f"status.py, all {what}", leave=False):
                (state / "calls.log").write_text("")
                began = time.perf_counter()
                look(grid, True)
                seconds.append(time.perf_counter() - began)
                calls = [json.loads(line)[0] for line in (state / "calls.log").open()]
            told = ", ".join(f"{name} {number}" for name, number in Counter(calls).items())
            name = f"status.py, {config.runs} cells {what}"
            yield name, f"{median(seconds[1:]):.2f} s a look; calls: {told}"


def main(words: Sequence[str]) -> None:
    """Measure, and print the table."""
    config = parse(ManyRunsBenchmark, words)
    if shutil.which("prometheus") is None:
        raise UserError("this needs Prometheus (Debian: apt-get install prometheus)")
    with tempfile.TemporaryDirectory(prefix="maskrestore-many-") as name:
        parts = (measure_dashboard(config, Path(name) / "a"), measure_status(config, Path(name)))
        figures = [figure for part in parts for figure in part]
    print(f"| {config.runs} runs | measured |\n| --- | --: |")
    print(*(f"| {what} | {figure} |" for what, figure in figures), sep="\n")
    print(f"\nMedians over {config.seconds} s. {conditions('cpu')}")


if __name__ == "__main__":
    sys.exit(run_program(main, __doc__ or "", ManyRunsBenchmark))
