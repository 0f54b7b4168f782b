"""attempts.jsonl: what is concluded from it about restarts and nodes."""

from pathlib import Path

from launch.slurm.journal import (
    count_idle_restarts,
    faulty_nodes,
    note,
    num_restarts,
    open_attempt,
    read_journal,
)


def began(run: Path, job: str, restart: int, num_images: int) -> None:
    note(run, "began", job=job, restart=restart, nodes=["n1"], num_images=num_images)


def attempt(run: Path, job: str, restart: int, num_images: int, is_crash: bool) -> None:
    began(run, job, restart, num_images)
    note(run, "ended", reason="so", is_crash=is_crash)


def test_restarts_without_progress_are_counted_from_the_last_progress_on(tmp_path: Path) -> None:
    def idle(num_images: int, job: str = "7") -> tuple[int, int]:
        return count_idle_restarts(read_journal(tmp_path), job, num_images)

    assert idle(0) == (0, 0)
    attempt(tmp_path, "7", 0, 0, is_crash=True)
    assert idle(0) == (0, 0)  # a first start is no restart
    attempt(tmp_path, "7", 1, 0, is_crash=False)
    attempt(tmp_path, "7", 2, 0, is_crash=True)
    assert idle(0) == (2, 1)
    assert idle(40) == (0, 0)  # something was saved since
    attempt(tmp_path, "7", 3, 40, is_crash=True)
    assert idle(40) == (0, 0)
    attempt(tmp_path, "7", 4, 40, is_crash=True)
    assert idle(40) == (1, 1)
    assert idle(40, job="8") == (0, 0)  # a new job begins anew: somebody has looked into it
    assert num_restarts(read_journal(tmp_path)) == 4


def test_a_node_is_at_fault_after_two_failures(tmp_path: Path) -> None:
    note(tmp_path, "ended", reason="node failed", faulty=["n1", "n2"])
    assert faulty_nodes(read_journal(tmp_path)) == []
    note(tmp_path, "ended", reason="preempted", faulty=[])
    note(tmp_path, "ended", reason="node failed", faulty=["n2"])
    assert faulty_nodes(read_journal(tmp_path)) == ["n2"]


def test_an_attempt_is_open_until_its_end_is_written(tmp_path: Path) -> None:
    assert open_attempt(read_journal(tmp_path)) is None
    began(tmp_path, "7", 0, 0)
    last = open_attempt(read_journal(tmp_path))
    assert last is not None
    assert last["job"] == "7"
    note(tmp_path, "ended", reason="finished")
    assert open_attempt(read_journal(tmp_path)) is None


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    began(tmp_path, "7", 0, 0)
    with open(tmp_path / "attempts.jsonl", "a") as file:
        file.write('{"event": "ended", "rea')
    assert [event["event"] for event in read_journal(tmp_path)] == ["began"]
    began(tmp_path, "7", 1, 0)
    assert [event["event"] for event in read_journal(tmp_path)] == ["began", "began"]
