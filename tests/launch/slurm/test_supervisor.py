"""What the batch shell does around the tasks, against recorded answers of SLURM's commands."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from metrics_page import targets_in
from slurm_answers import FakeSlurm, slurm

from launch.slurm.journal import Event, note, read_journal
from launch.slurm.supervisor import main
from maskrestore.monitoring.targets import FAILURE, NOWHERE, Target, announce

pytestmark = pytest.mark.slow

__all__ = ["slurm"]  # a fixture

RUNNING = {"JobState": "RUNNING", "Restarts": 0, "Partition": "gpu", "PreemptTime": "None"}
RUNNING |= {"TimeLimit": "04:00:00", "RunTime": "00:10:00", "ExcNodeList": "(null)"}


class Shell:
    """The batch shell of a job on given nodes of three."""

    def __init__(self, slurm: FakeSlurm, run: Path, patch: pytest.MonkeyPatch) -> None:
        self.slurm, self.run, self.patch = slurm, run, patch
        patch.setenv("SLURM_JOB_ID", "7")
        self.set(["n1"])

    def set(self, nodes: list[str], restart: int = 0, up: int = 3, **facts: Any) -> None:
        """Where the job is, how often it was restarted, and what scontrol tells of it."""
        self.patch.setenv("SLURM_JOB_NODELIST", ",".join(nodes))
        self.patch.setenv("SLURM_RESTART_COUNT", str(restart))
        of_job = RUNNING | {"Restarts": restart} | facts
        (self.slurm.folder / "facts.json").write_text(json.dumps(of_job))
        states = {f"n{i + 1}": "idle" if i < up else "down*" for i in range(3)}
        (self.slurm.folder / "nodes.json").write_text(json.dumps(states))

    def begin(self) -> int:
        return main(["begin", str(self.run)])

    def end(self, status: int) -> int:
        return main(["end", str(self.run), str(status)])

    def attempt(self, status: int) -> int:
        self.begin()
        return self.end(status)

    @property
    def events(self) -> list[Event]:
        return read_journal(self.run)

    @property
    def commands(self) -> list[list[str]]:
        """scontrol's that change something."""
        return [words for words in self.slurm.calls("scontrol") if "show" not in words]


@pytest.fixture
def shell(slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    before = signal.getsignal(signal.SIGTERM)  # a requeue ignores it for the rest of the process
    yield Shell(slurm, tmp_path / "run", monkeypatch)
    signal.signal(signal.SIGTERM, before)


def save(shell: Shell, num_images: int) -> None:
    (shell.run / "checkpoints" / f"{num_images:09d}").mkdir(parents=True)


def test_saved_and_asked_to_stop_is_requeued(shell: Shell) -> None:
    shell.set(["n1"], RunTime="03:58:30")
    assert shell.attempt(75) == 75
    assert shell.events[-1]["reason"] == "time limit, saved"
    assert shell.commands == [["requeue", "7"]]
    shell.set(["n1"], restart=1, PreemptTime="2026-11-25T09:00:00")
    shell.attempt(75)
    assert shell.events[-1]["reason"] == "preempted, saved"


def test_an_element_of_an_array_requeues_itself_and_not_the_array(shell: Shell) -> None:
    shell.patch.setenv("SLURM_ARRAY_JOB_ID", "7")
    shell.patch.setenv("SLURM_ARRAY_TASK_ID", "2")
    shell.attempt(75)
    assert shell.commands == [["requeue", "7_2"]]


def test_cancelled_or_already_requeued_is_left_alone(shell: Shell) -> None:
    shell.begin()
    shell.set(["n1"], JobState="COMPLETING")  # what SLURM says while a cancelled job ends
    shell.end(75)
    assert shell.events[-1]["reason"] == "cancelled, saved"
    shell.begin()
    shell.set(["n1"], JobState="COMPLETING", Restarts=1)
    shell.patch.setenv("SLURM_RESTART_COUNT", "0")
    shell.end(75)
    assert shell.events[-1]["reason"] == "requeued by SLURM, saved"
    assert shell.commands == []


def test_what_ran_out_of_time_before_it_saved_is_requeued(shell: Shell) -> None:
    shell.begin()
    shell.set(["n1"], JobState="COMPLETING", RunTime="04:00:05")
    shell.end(137)
    assert "signal_seconds" in shell.events[-1]["reason"]
    assert shell.events[-1]["faulty"] == []
    assert shell.commands == [["requeue", "7"]]


def test_a_users_mistake_ends_the_run_and_a_finished_one_is_not_touched(shell: Shell) -> None:
    shell.begin()
    (shell.run / "error.txt").write_text("no such file\n")
    assert shell.end(2) == 2
    assert shell.events[-1]["reason"] == "no such file"
    (shell.run / "result.json").write_text("{}")
    before = shell.events
    assert shell.attempt(0) == 0
    assert shell.events == before
    assert shell.commands == []


def test_sruns_word_alone_is_no_end(shell: Shell) -> None:
    """Where a node fails, srun ends with 0."""
    shell.attempt(0)
    assert shell.events[-1]["reason"] != "finished"
    assert shell.commands == [["requeue", "7"]]


def test_restarts_without_progress_are_given_up(shell: Shell) -> None:
    for restart in range(4):
        shell.set(["n1", "n2"], restart)
        status = shell.attempt(1)
    assert status == 1
    assert shell.events[-1]["event"] == "gave up"
    assert "no progress in 3 restarts from image 0" in (shell.run / "error.txt").read_text()
    assert len(shell.commands) == 3
    assert shell.begin() == 2  # should SLURM start it once more
    save(shell, 40)
    assert shell.begin() == 0


def test_a_run_that_is_killed_before_it_could_say_so_is_told_to_prometheus(
    shell: Shell, tmp_path: Path
) -> None:
    for restart in range(4):
        assert not (tmp_path / "targets").exists()  # it is started again
        shell.set(["n1", "n2"], restart)
        shell.attempt(137)
    [(address, labels)] = targets_in(tmp_path / "targets")
    assert (address, labels["run"]) == (NOWHERE, "run")
    assert "restarts from image 0; the last one: killed by SIGKILL" in labels[FAILURE]
    shell.set(["n1", "n2"], 4)
    save(shell, 40)
    shell.begin()
    (shell.run / "error.txt").write_text("no such file\n")
    shell.end(2)
    assert targets_in(tmp_path / "targets")[0][1][FAILURE] == "no such file"
    live = Target(*(tmp_path / "targets").glob("*"), "127.0.0.1:9", {})  # it had begun
    announce(live)
    shell.begin()
    shell.end(2)
    assert targets_in(tmp_path / "targets") == [("127.0.0.1:9", {})]


def test_a_part_of_a_restoration_counts_its_masks(shell: Shell, tmp_path: Path) -> None:
    """Its submission says which masks; a crash after more of them is progress."""
    submission, restored = tmp_path / "jobs" / "x.restore.0", tmp_path / "out/.restore/1of2"
    part = {"run": str(shell.run), "output": str(tmp_path / "out"), "part": "1/2"}
    content = {"folder": "/", "max_idle_restarts": 1, "cells": {"part-0": {}, "part-1": part}}
    submission.mkdir(parents=True)
    restored.mkdir(parents=True)
    (submission / "submission.json").write_text(json.dumps(content))
    shell.patch.setenv("SLURM_ARRAY_JOB_ID", "7")
    shell.patch.setenv("SLURM_ARRAY_TASK_ID", "1")
    for restart, number in enumerate((0, 1, 2, 2)):
        lines = [{"file": f"{n}.png", "state": "done", "time": n} for n in range(number)]
        lines += [{"file": "9.png", "state": "begun", "time": 9}]
        journal = "\n\n".join(map(json.dumps, lines)) + '\n{"file": "8.p'
        (restored / "abc-0.jsonl").write_text(journal)
        (restored.with_name("0of2")).mkdir(exist_ok=True)
        shell.set(["n1", "n2"], restart)
        assert main(["begin", str(submission)]) == 0
        status = main(["end", str(submission), "1"])
    assert status == 1
    assert [event["num_images"] for event in shell.events if event["event"] == "ended"] == [
        0,
        1,
        2,
        2,
    ]
    assert shell.events[-1]["event"] == "gave up"
    assert shell.events[-1]["reason"].startswith("no progress in 1 restarts from mask 2; the last")
    assert main(["begin", str(submission)]) == 2


def test_preemption_is_no_crash_but_not_for_ever(shell: Shell) -> None:
    for restart in range(15):
        shell.set(["n1", "n2"], restart, PreemptTime="2026-11-25T09:00:00")
        shell.attempt(75)
    assert len(shell.commands) == 15
    shell.set(["n1", "n2"], 15, PreemptTime="2026-11-25T09:00:00")
    shell.attempt(75)
    assert shell.events[-1]["event"] == "gave up"


def test_preemption_that_cancels_is_not_taken_for_somebodys_wish(shell: Shell) -> None:
    shell.begin()
    shell.set(["n1"], JobState="COMPLETING", PreemptTime="2026-11-25T09:00:00")
    shell.end(75)
    assert shell.events[-1]["reason"] == "preempted, saved"
    assert shell.commands == [["requeue", "7"]]


def test_a_status_that_is_no_signals(shell: Shell) -> None:
    shell.attempt(255)
    assert shell.events[-1]["reason"] == "ended with status 255"
    assert shell.commands == [["requeue", "7"]]


def test_a_controller_that_is_away_for_a_while_is_waited_for(shell: Shell) -> None:
    shell.begin()
    silent = shell.slurm.folder / "silent"
    silent.write_text("Unable to contact slurm controller")

    def sleep(seconds: float) -> None:
        silent.unlink(missing_ok=True)

    shell.patch.setattr("launch.slurm.supervisor.time.sleep", sleep)
    shell.end(75)
    assert shell.events[-1]["reason"] == "asked to stop, saved"
    assert shell.commands[-1] == ["requeue", "7"]


def test_a_node_that_failed_twice_is_left(shell: Shell) -> None:
    shell.attempt(139)
    shell.set(["n1"], restart=1)
    shell.attempt(139)
    assert shell.events[-1] == shell.events[-1] | {"event": "excluded", "nodes": ["n1"]}
    assert shell.commands[-2:] == [["requeue", "7"], ["update", "JobId=7", "ExcNodeList=n1"]]


def test_a_start_on_such_a_node_is_put_back_once(shell: Shell) -> None:
    shell.run.mkdir()
    for _ in range(2):
        note(shell.run, "ended", reason="node failed", faulty=["n1"])
    assert shell.begin() != 0
    assert shell.commands == [["requeue", "7"], ["update", "JobId=7", "ExcNodeList=n1"]]
    shell.set(["n1"], restart=1)  # SLURM did not listen
    assert shell.begin() == 0


def test_a_node_is_not_left_where_there_are_too_few(shell: Shell) -> None:
    shell.run.mkdir()
    for _ in range(2):
        note(shell.run, "ended", reason="node failed", faulty=["n1"])
    shell.set(["n1"], up=1)
    assert shell.begin() == 0
    assert shell.commands == []


def test_an_attempt_that_ended_without_a_word_is_told_by_the_next(shell: Shell) -> None:
    shell.set(["n2", "n3"])
    shell.begin()
    shell.set(["n1", "n2"], restart=1, up=2)
    assert shell.begin() == 0
    ended = shell.events[1]
    assert ended["reason"] == "node failed: n3"
    assert ended["faulty"] == ["n3"]
