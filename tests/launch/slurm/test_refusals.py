"""What submit.py refuses before SLURM hears of it, against recorded answers of its commands."""

from pathlib import Path

import pytest
from slurm_answers import FakeSlurm, slurm, words

from launch.slurm.commands import parse_clock
from launch.submit import main
from maskrestore.utils.errors import ConfigError, UserError

__all__ = ["slurm", "words"]  # fixtures

REFUSAL = (
    "{}: SLURM reads % and \\ in the path of a log as patterns; give a folder without them, as "
    "runs=DIR or, where masks are restored, output=DIR"
)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (
            ["slurm.partition=gpus"],
            "slurm.partition=gpus: no such partition; there are: closed, cp",
        ),
        (["slurm.nodes=7"], "slurm.nodes=7: partition gpu has 6"),
        (["slurm.gpus_per_node=9"], "no node of partition gpu has more than 8 GPUs"),
        (["slurm.memory_gb=600"], "no node of partition gpu has more than 500 GB"),
        (["slurm.cpus_per_task=65"], "no node of partition gpu has more than 64 cores"),
        (["slurm.minutes=3000"], "slurm.minutes=3000: partition gpu allows 2880"),
        (["slurm.minutes=1"], "slurm.signal_seconds=120: not before a time limit"),
        (["slurm.partition=closed", "slurm.gpus_per_node=0"], "closed at present"),
        (["slurm.minutes=-1"], "slurm.minutes"),
        (["slurm.gpus_per_node=3"], "training.batch_size=8 cannot be shared evenly by 3 tasks"),
        (
            ["slurm.gpus_per_node=0", "distributed.frozen_precision=fp16"],
            "distributed.frozen_precision=fp16 needs a GPU, but slurm.gpus_per_node=0",
        ),
        (["slurm.account=nobody"], "sbatch refuses this: Batch job submission failed: Invalid acc"),
        (["slurm.sbatch=[reservation]"], "slurm.sbatch"),
        (["profile=nowhere"], "profile=nowhere: no file"),
        (["cells=densify-cee,nothing"], "no such cells: densify-cee, nothing; there are: synth"),
    ],
)
def test_what_cannot_be_had_is_refused_before_anything_is_submitted(
    slurm: FakeSlurm, words: list[str], more: list[str], complaint: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        main([*words, *more])
    assert complaint in str(caught.value)
    assert slurm.jobs == []


@pytest.mark.parametrize("name", ["50%", "%j", "back\\slash", "50%/deeper"])
@pytest.mark.parametrize("more", [[], ["dry_run=true"]])
def test_a_path_that_slurm_would_take_for_a_pattern_is_refused(
    slurm: FakeSlurm, words: list[str], tmp_path: Path, name: str, more: list[str]
) -> None:
    """SLURM itself has an escape, but submitit names the same path to Python."""
    with pytest.raises(ConfigError) as mistake:
        main([*words, f"runs={tmp_path}/{name}", *more])
    assert str(mistake.value) == REFUSAL.format(f"{tmp_path}/{name}/tiny-small")
    assert slurm.jobs == []


def test_so_is_a_relative_path_by_the_folder_that_it_counts_from(
    slurm: FakeSlurm, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "100%").mkdir()
    monkeypatch.chdir(tmp_path / "100%")
    with pytest.raises(ConfigError) as mistake:
        main([*words, "runs=runs"])
    assert str(mistake.value) == REFUSAL.format(f"{tmp_path}/100%/runs/tiny-small")


def test_all_mistakes_of_a_profile_at_once(
    slurm: FakeSlurm, words: list[str], tmp_path: Path
) -> None:
    profile = tmp_path / "mine.yaml"
    profile.write_text("nodes: many\npartion: gpu\n")
    with pytest.raises(ConfigError) as caught:
        main([*words, f"profile={profile}"])
    assert "slurm.nodes" in str(caught.value)
    assert "did you mean partition?" in str(caught.value)
    too_much = ["slurm.nodes=9", "slurm.gpus_per_node=9", "slurm.minutes=3000"]
    with pytest.raises(ConfigError) as caught:
        main([*words, *too_much])
    assert len(str(caught.value).splitlines()) == 3


def test_a_slurm_that_does_not_answer_is_told_and_not_taken_for_a_laptop(
    slurm: FakeSlurm, words: list[str]
) -> None:
    (slurm.folder / "silent").write_text("Munge encode failed: Failed to access socket")
    with pytest.raises(UserError, match=r"Munge encode failed.*is munged running.*\n.*cluster=loc"):
        main(words)
    (slurm.folder / "silent").write_text("Unable to contact slurm controller (connect failure)")
    with pytest.raises(UserError, match="Unable to contact slurm controller"):
        main(words)
    (slurm.folder / "silent").write_text("Could not establish a configuration source")
    with pytest.raises(UserError, match="configuration source"):
        main([*words, "cluster=slurm"])
    assert main([*words, "dry_run=true"]) == 0  # programs of a cluster that is none: this machine


def test_what_sbatch_refuses_in_the_end_is_told_in_a_line(
    slurm: FakeSlurm, words: list[str]
) -> None:
    (slurm.folder / "full").touch()
    with pytest.raises(UserError, match=r"^sbatch refused shards: .*QOS policy\nwhat was"):
        main(words)
    (slurm.folder / "full").unlink()
    assert main(words) == 0
    assert slurm.kinds() == ["shards", "generator", "cells", "cells", "cells", "report"]


def test_no_slurm_where_it_is_asked_for(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="cluster=slurm: there is no sbatch on this machine"):
        main([*words, "cluster=slurm"])


def test_a_wrong_cell_stops_the_grid_before_anything_is_submitted(
    slurm: FakeSlurm, words: list[str], tmp_path: Path
) -> None:
    grid = tmp_path / "wrong.yaml"
    grid.write_text("rows:\n  a: {task: densify, loss: ce}\n  b: {task: densfy}\n")
    with pytest.raises(ConfigError, match=r"wrong\.yaml: cell b: task"):
        main([*(word for word in words if not word.startswith("grid=")), f"grid={grid}"])
    assert slurm.jobs == []


@pytest.mark.parametrize("more", ["gpu,cpu", "cpu, gpu*", "closed,cpu", "gpu*", "cpu,,cpu,"])
def test_one_of_several_partitions_that_fits_is_enough(
    slurm: FakeSlurm, words: list[str], more: str
) -> None:
    """Names as sinfo prints them, too; the closed one has too few cores besides."""
    resources = [f"slurm.partition={more}", "slurm.gpus_per_node=0", "slurm.cpus_per_task=64"]
    assert main([*words, *resources]) == 0
    expected = {"gpu,cpu": "gpu,cpu", "cpu, gpu*": "cpu,gpu", "closed,cpu": "closed,cpu"}
    expected |= {"gpu*": "gpu", "cpu,,cpu,": "cpu"}
    assert {job["options"]["partition"] for job in slurm.jobs} == {expected[more]}


def test_several_partitions_of_which_none_fits_are_told_by_what_each_lacks(
    slurm: FakeSlurm, words: list[str]
) -> None:
    too_much = ["slurm.gpus_per_node=4", "slurm.nodes=8", "training.batch_size=32"]
    with pytest.raises(ConfigError) as caught:
        main([*words, "slurm.partition=gpu,cpu,closed", *too_much])
    assert str(caught.value).splitlines() == [
        "slurm.partition=gpu,cpu,closed: none of them can give it all",
        "slurm.nodes=8: partition gpu has 6",
        "slurm.gpus_per_node=4: no node of partition cpu has more than 0 GPUs",
        "slurm.partition=closed: closed at present",
        "slurm.minutes=240: partition closed allows 60; longer runs are requeued and go on",
        "slurm.gpus_per_node=4: no node of partition closed has more than 0 GPUs",
        "slurm.tasks_per_node x slurm.cpus_per_task=16: no node of partition closed has more than "
        "2 cores",
        "slurm.nodes=8: partition closed has 1",
    ]
    with pytest.raises(ConfigError) as caught:
        main([*words, "slurm.partition=gpu,gpus,cpus"])
    assert "slurm.partition=gpus,cpus: no such partition; there are: closed" in str(caught.value)
    assert slurm.jobs == []


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1:00:00", 3600),
        ("2-00:00:00", 2 * 24 * 3600),
        ("1-02:03:04", ((24 + 2) * 60 + 3) * 60 + 4),
        ("30:00", 1800),
        ("0:30", 30),
        ("infinite", None),
        ("UNLIMITED", None),
        ("Partition_Limit", None),
        ("INVALID", None),
        ("", None),
    ],
)
def test_times_as_slurms_commands_write_them(text: str, seconds: int | None) -> None:
    assert parse_clock(text) == seconds
