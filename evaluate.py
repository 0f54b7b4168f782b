"""Evaluate a finished run again: its figures, its result.json and its pictures.

python evaluate.py run=runs/NAME [evaluation.batch_size=8] [evaluation.features=inception] ...
accelerate launch evaluate.py run=runs/NAME
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskrestore.config.cli import end_process, run_program
from maskrestore.config.run import RunConfig, load_config
from maskrestore.distributed.places import num_processes
from maskrestore.runs.figures import FIGURES, KIND_FIGURES
from maskrestore.runs.resume_check import differing_keys, read_run_config
from maskrestore.utils.errors import ConfigError, UserError
from maskrestore.utils.launcher import is_first_process


def main(words: Sequence[str]) -> None:
    """Read the run's own settings, lay those given here over them, evaluate, print the figures."""
    given = dict(word.split("=", 1) for word in words if "=" in word)
    if "run" not in given:
        raise ConfigError("run: must be given, as run=runs/NAME")
    saved = Path(given["run"]) / "config.yaml"
    if not saved.is_file():
        raise UserError(f"run={given['run']} is not the folder of a run: it has no config.yaml")
    started = read_run_config(saved)
    config = load_config([f"config={saved}", *words])
    num_processes()  # what is wrong with them is said before torch is imported
    changed = [
        key
        for key in differing_keys(started, config)
        if not key.startswith(("evaluation.", "distributed."))
    ]

    # After parsing: torch takes seconds to import.
    from maskrestore.evaluation.finished_run import evaluate_run
    from maskrestore.runs.run_folder import changed_inputs

    changed += changed_inputs(config)
    metrics = evaluate_run(config, write=not changed)
    if not is_first_process():
        return
    print_figures(metrics)
    if changed:
        print(f"{config.run}/result.json is left as it is, since these are other figures:")
        print(*(f"  {line}" for line in changed), sep="\n")
    else:
        print(f"{config.run}/result.json")


def print_figures(metrics: dict[str, Any]) -> None:
    """A line for each figure, with the ends of its interval; below, one for each kind of damage."""
    intervals, kinds = metrics["intervals"] or {}, metrics["by_degradation"] or {}
    for key in (key for key in FIGURES if metrics.get(key) is not None):
        if FIGURES[key].is_share:
            value, low, high = (_percent(key, share) for share in (metrics[key], *intervals[key]))
            print(f"{key:17} {value:>8}   95 %: {low} to {high}")
        else:  # a distance has no interval
            print(f"{key:17} {metrics[key]:8.4g}")
    print(f"{'num_samples':17} {metrics['num_samples']:8}")
    for kind, figures in kinds.items():
        shares = [f"{key} {_percent(key, figures[key])}" for key in KIND_FIGURES]
        print(f"{kind:17} {figures['num_samples']:8}   {', '.join(shares)}")


def _percent(key: str, share: float | None) -> str:
    return "-" if share is None else f"{FIGURES[key].text(share)} %"


if __name__ == "__main__":
    end_process(run_program(main, __doc__, RunConfig, as_several=True))
