"""Jobs that SLURM holds, against recorded answers: shown, sent elsewhere, given up."""

import json
from pathlib import Path
from typing import Any

import pytest
from masks import draw_mask, make_run, words_of
from slurm_answers import FakeSlurm, finish, folder_of, slurm, words

from launch.slurm.journal import read_journal
from launch.status import main as status
from launch.submit import main
from maskrestore.utils.errors import UserError

pytestmark = pytest.mark.slow

__all__ = ["slurm", "words"]  # fixtures

FAILED = "launch failed requeued held"


def hold(slurm: FakeSlurm, kind: str, reason: str = FAILED, **facts: Any) -> None:
    """Let SLURM hold the jobs of a kind, which had n1 of three nodes."""
    slurm.change(kind, **({"state": "PENDING", "reason": reason, "nodes": ""} | facts))
    job = {"Partition": "gpu", "NumNodes": "1", "ExcNodeList": "(null)"}
    (slurm.folder / "facts.json").write_text(json.dumps(job))
    nodes = {"n1": "drained", "n2": "idle", "n3": "down*"}
    (slurm.folder / "nodes.json").write_text(json.dumps(nodes))
    attempts = [("NODE_FAIL", "n2"), ("REQUEUED", "n1"), ("PENDING", "None assigned")]
    (slurm.folder / "accounting.json").write_text(json.dumps(attempts))


def changes(slurm: FakeSlurm) -> list[list[str]]:
    """scontrol's that change something."""
    return [call for call in slurm.calls("scontrol") if "show" not in call]


def shown_rows(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    return {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}


@pytest.mark.parametrize(
    ("reason", "state", "text"),
    [
        (FAILED, "PENDING", "its launch failed: the same submit.py again sends it elsewhere"),
        (FAILED.replace(" ", "_"), "PENDING", "the same submit.py again sends it elsewhere"),
        ("JobHoldMaxRequeue", "PENDING", "too often: the same submit.py again sends it elsewhere"),
        ("JobHeldUser", "PENDING", "by its owner: scontrol release 102"),
        (
            "JobHeldAdmin",
            "PENDING",
            "by an administrator: ask one of them for scontrol release 102",
        ),
        ("job requeued in held state", "PENDING", "to be looked at: scontrol release 102"),
        ("job_requeued_in_held_state", "SPECIAL_EXIT", "to be looked at: scontrol release 102"),
        ("BadConstraints", "PENDING", "no node has what it asks for: scancel 102; submit with"),
    ],
)
def test_a_held_job_is_shown_as_such_with_the_remedy(
    slurm: FakeSlurm,
    words: list[str],
    capsys: pytest.CaptureFixture[str],
    reason: str,
    state: str,
    text: str,
) -> None:
    main(words)
    hold(slurm, "generator", reason, state=state)
    capsys.readouterr()
    assert status(words) == 0
    rows = shown_rows(capsys)
    assert rows["synthesis"].split()[1] == "held"
    assert f"job 102 held ({reason}), " in rows["synthesis"]
    assert text in rows["synthesis"]
    assert "1 held, 3 waiting" in rows["small"]
    assert main([*words, "dry_run=true"]) == 0
    assert text in shown_rows(capsys)["synthesis"]
    assert changes(slurm) == []


def test_shards_and_report_that_are_held_are_shown(
    slurm: FakeSlurm, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(words)
    hold(slurm, "shards")
    hold(slurm, "report", "JobHeldUser")
    capsys.readouterr()
    assert status(words) == 0
    rows = shown_rows(capsys)
    assert f"job 101 held ({FAILED}), its launch failed" in rows["shards:"]
    assert "scontrol release 104" in rows["report:"]


def test_the_same_command_sends_it_to_other_nodes(
    slurm: FakeSlurm, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(words)
    hold(slurm, "generator")
    hold(slurm, "shards")
    before = slurm.kinds()
    capsys.readouterr()
    assert main(words) == 0
    output = capsys.readouterr().out
    for job in ("102", "101"):
        assert f"job {job} was held ({FAILED}): released, away from n1" in output
        assert ["update", f"JobId={job}", "ExcNodeList=n1"] in changes(slurm)
        assert ["release", job] in changes(slurm)
    assert "nothing to submit" in output
    assert slurm.kinds() == before
    [event] = read_journal(folder_of(tmp_path) / "synthesis")
    assert event["event"] == "held"
    assert (event["job"], event["reason"], event["nodes"]) == ("102", FAILED, ["n1"])
    status(words)
    row = shown_rows(capsys)["synthesis"]
    assert row.split()[1] == "waiting"
    assert "could not be started 1 times" in row
    assert main(words) == 0
    assert len(changes(slurm)) == 4  # it is not held any more


def test_elements_of_an_array_are_sent_each_for_itself_and_chosen_ones_alone(
    slurm: FakeSlurm, words: list[str], tmp_path: Path
) -> None:
    finish(words, "synthesis")
    main(words)
    hold(slurm, "cells")
    ids = [f"{job['number']}_{job['index']}" for job in slurm.jobs if ".cells." in job["name"]]
    assert status([*words, "retry=densify-ce"]) == 0
    assert [call for call in changes(slurm) if call[0] == "release"] == [["release", ids[1]]]
    assert main(words) == 0
    released = [call[1] for call in changes(slurm) if call[0] == "release"]
    assert sorted(released) == sorted(ids)
    for name in ("densify-none", "densify-ce", "densify-ce_l1"):
        assert len(read_journal(folder_of(tmp_path) / name)) == 1


@pytest.mark.parametrize("reason", ["JobHeldUser", "JobHeldAdmin", "job requeued in held state"])
def test_what_people_hold_stays_held(slurm: FakeSlurm, words: list[str], reason: str) -> None:
    main(words)
    hold(slurm, "generator", reason)
    assert main(words) == 0
    assert status([*words, "retry=synthesis"]) == 0
    assert changes(slurm) == []


def test_after_some_failed_launches_it_is_given_up_and_the_next_command_begins_anew(
    slurm: FakeSlurm, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*words, "slurm.max_idle_restarts=2"]
    main(words)
    for _ in range(2):
        hold(slurm, "generator")
        assert main(words) == 0
    hold(slurm, "generator")
    assert main(words) == 1
    reason = f"job 102 could not be started 3 times, on n1: {FAILED}"
    assert reason in capsys.readouterr().out
    assert slurm.calls("scancel") == [["--quiet", "102"]]
    run = folder_of(tmp_path) / "synthesis"
    assert (run / "error.txt").read_text() == f"{reason}\n"
    assert read_journal(run)[-1]["event"] == "gave up"
    assert "generator" not in slurm.kinds()
    assert status(words) == 1
    row = shown_rows(capsys)["synthesis"]
    assert "gave up" in row
    assert reason in row
    assert main(words) == 0
    assert slurm.kinds().count("generator") == 1


def test_a_job_that_nothing_else_could_take_is_released_to_wait_for_its_node(
    slurm: FakeSlurm, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(words)
    hold(slurm, "generator")
    (slurm.folder / "nodes.json").write_text(json.dumps({"n1": "drained", "n3": "down*"}))
    assert main(words) == 0
    assert changes(slurm) == [["release", "102"]]
    hold(slurm, "generator")
    attempts = [("REQUEUED", "n1,n2"), ("PENDING", "None assigned")]  # one of them, nobody tells
    (slurm.folder / "accounting.json").write_text(json.dumps(attempts))
    assert main(words) == 0
    assert changes(slurm)[-1] == ["release", "102"]
    hold(slurm, "generator")
    (slurm.folder / "accounting.json").unlink()  # nobody tells where it was
    assert main(words) == 0
    assert changes(slurm)[-1] == ["release", "102"]
    assert "): released\n" in capsys.readouterr().out


def test_nodes_that_it_was_kept_away_from_before_stay_excluded(
    slurm: FakeSlurm, words: list[str]
) -> None:
    main(words)
    hold(slurm, "generator")
    facts = {"Partition": "gpu", "NumNodes": "1-1", "ExcNodeList": "n7"}
    (slurm.folder / "facts.json").write_text(json.dumps(facts))
    assert main(words) == 0
    assert changes(slurm)[0] == ["update", "JobId=102", "ExcNodeList=n1,n7"]


def test_a_release_that_slurm_refuses_is_told_and_the_others_go_on(
    slurm: FakeSlurm, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    main(words)
    hold(slurm, "generator")
    hold(slurm, "shards")
    (slurm.folder / "refused").write_text("102")
    assert main(words) == 2
    complaint = capsys.readouterr().err
    assert (
        f"job 102 stays held ({FAILED}): SLURM does not answer scontrol: Access/perm" in complaint
    )
    assert ["release", "101"] in changes(slurm)


def test_parts_of_a_restoration_are_sent_elsewhere_and_given_up_too(
    slurm: FakeSlurm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run")
    for number in range(2):
        draw_mask(tmp_path / f"in/{number}.png", seed=number)
    words = ["grid=densify_extra", *words_of(run, tmp_path / "in", tmp_path / "out")]
    words.append("slurm.max_idle_restarts=1")
    assert main(words) == 0
    hold(slurm, "restore", "JobHeldUser")
    with pytest.raises(UserError, match=r"job 101_1 held .JobHeldUser., by its owner: scontr"):
        main(words)
    hold(slurm, "restore")
    assert main([*words, "dry_run=true"]) == 0
    assert changes(slurm) == []
    assert main(words) == 0
    assert "job 101_0 was held (launch failed requeued held): released" in capsys.readouterr().out
    assert [call[1] for call in changes(slurm) if call[0] == "release"] == ["101_0", "101_1"]
    hold(slurm, "restore")
    assert main(words) == 1
    assert slurm.jobs == []
    part = tmp_path / "out.jobs" / "part-1-of-2"
    assert "could not be started 2 times" in (part / "error.txt").read_text()
