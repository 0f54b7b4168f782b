"""What stands around the benchmarks; what they measure is in docs/performance.md."""

import itertools
import json
import re
from importlib.metadata import requires
from pathlib import Path

import pytest

from benchmarks import resume
from benchmarks.__main__ import BENCHMARKS, PAGE, main, replaced
from benchmarks.side_by_side import Comparison, in_turns, table
from maskrestore.utils.errors import ConfigError, UserError


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_table_has_its_place_and_is_filled(name: str) -> None:
    page = PAGE.read_text()
    content = re.search(rf"<!-- {name}: .*?-->(.*?)<!-- end of {name} -->", page, re.DOTALL)
    assert content is not None
    assert "| --- |" in content[1]
    assert "@@" not in page


def test_a_table_takes_the_place_of_the_last_one() -> None:
    page = PAGE.read_text()
    changed = replaced(page, "startup", "| new |\n")
    begin = page.index("<!-- startup")
    end = page.index("<!-- end of startup")
    assert changed[:begin] == page[:begin]
    assert changed.endswith(page[end:])
    assert "| new |" in changed
    assert replaced(changed, "startup", "| new |") == changed
    with pytest.raises(UserError, match="no place for the table nothing"):
        replaced(page, "nothing", "")


def test_unknown_tables_are_named_with_all_there_are() -> None:
    with pytest.raises(ConfigError, match="no frost; there are frozen, step, loader"):
        main(["only=frost"])


@pytest.mark.parametrize(("higher_is_better", "ratio"), [(False, 2.0), (True, 0.5)])
def test_ratios_say_how_many_times_better_ours_is(higher_is_better: bool, ratio: float) -> None:
    turns: list[str] = []
    warm_up = itertools.chain([100.0], itertools.repeat(3.0))

    def ours() -> float:
        turns.append("ours")
        return next(warm_up)

    def theirs() -> float:
        turns.append("theirs")
        return 6.0

    measured = in_turns(ours, theirs, 3, "test", higher_is_better)
    assert measured == ((ratio,) * 3, 3.0, 6.0)
    assert turns[2:] == ["theirs", "ours", "ours", "theirs", "theirs", "ours"]
    row = table([Comparison("a", "b", 2, *measured)]).splitlines()[2]
    assert row.startswith(f"| a | b | 2x | **{ratio:.2f}x** ({ratio:.2f} to {ratio:.2f}) | 3 s |")


def test_what_was_not_measured_says_so() -> None:
    assert "| not measured |" in table([Comparison("a", "b", 3.0, remark="no GPU")])


def test_a_killed_run_may_differ_in_what_tells_runs_apart_alone(tmp_path: Path) -> None:
    for name, starts in (("unbroken", 1), ("killed", 3)):
        run = tmp_path / name
        run.mkdir()
        (run / "starts").write_text(str(starts))
        (run / "config.yaml").write_text(f"run: {run}")
        line = {"num_images": 4, "losses": {"ce": 1.5}, "images_per_second": starts}
        (run / "metrics.jsonl").write_text(json.dumps(line))
        (run / "result.json").write_text("{}")
    unbroken, killed = (resume.contents(tmp_path / name) for name in ("unbroken", "killed"))
    assert unbroken == killed
    assert unbroken.keys() == {"metrics.jsonl", "result.json"}


def test_the_wheels_that_are_carried_bring_what_they_stand_on() -> None:
    """benchmarks/README.md says what is there: torch and what comes with it, and these."""
    makefile = (PAGE.parents[1] / "Makefile").read_text().replace("\\\n", " ")
    carried = re.search(r"^CARRIED := (.*)$", makefile, re.MULTILINE)
    assert carried is not None
    there = {"torch", "torchvision", "numpy", "scipy", "pillow", "tqdm", "networkx", "packaging"}
    there |= {"typing-extensions", *carried[1].split()}
    for name in carried[1].split():
        for line in requires(name) or []:
            if "extra ==" not in line:
                package = re.match(r"[\w.-]+", line)
                assert package is not None
                assert package[0].lower().replace("_", "-") in there, f"{name} needs {line}"


def test_the_plain_references_import_nothing_of_ours() -> None:
    for name in ("plain_spade.py", "plain_step.py"):
        assert "maskrestore" not in re.sub(
            r'""".*?"""', "", (Path(PAGE).parents[1] / "benchmarks" / name).read_text(), flags=re.S
        )
