"""The one reader of metrics.jsonl: what counts as a line, and how much of a long file is read."""

import json
from pathlib import Path
from typing import Any

import pytest

from maskrestore.runs import metrics_file
from maskrestore.runs.metrics_file import METRICS, newest_first, read_metrics, was_evaluated
from maskrestore.utils.errors import UserError


def line(num_images: int, **facts: Any) -> bytes:
    return json.dumps({"num_images": num_images, **facts}).encode()


@pytest.mark.parametrize(
    ("content", "seen"),
    [
        (b"", []),
        (b"\n\n", []),
        (line(1) + b"\n" + line(2) + b"\n", [1, 2]),
        (line(1) + b"\r\n" + line(2), [1, 2]),  # whole, though its end is yet to be written
        (line(1) + b"\n" + line(2)[:-1], [1]),  # being written, or its run was killed
        (line(1) + b"\n" + line(2)[:9] + b"\n" + line(3) + b"\n", [1, 3]),
        (line(1) + b"\n" + line(2)[:9] + line(3) + b"\n" + line(4), [1, 4]),
        (line(1) + b'\n{"num_images": 2, "losses": "\xff"}\n' + line(3), [1, 3]),
        (b"\xff\xfe\x00\n" + line(2), [2]),
        (line(1) + b"\n" + bytes(4096) + b"\n" + line(3), [1, 3]),  # a power cut leaves zeros
        (b'[1]\n7\nnull\n{"losses": {}}\n{"num_images": "3"}\n' + line(4), [4]),
        (b"[" * 100_000 + b"\n" + line(2), [2]),
    ],
)
def test_what_is_no_whole_line_is_passed_over(
    tmp_path: Path, content: bytes, seen: list[int]
) -> None:
    (tmp_path / METRICS).write_bytes(content)
    assert [line["num_images"] for line in read_metrics(tmp_path)] == seen
    assert [line["num_images"] for line in newest_first(tmp_path)] == seen[::-1]


def test_no_file_has_no_lines_and_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == read_metrics(tmp_path / "nowhere") == []
    (tmp_path / METRICS).mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be read: Is a directory"):
        read_metrics(tmp_path)


@pytest.mark.parametrize("block", [1, 7, 64, 8192])
def test_lines_are_whole_wherever_the_blocks_end(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_file, "BLOCK", block)
    written = [{"num_images": number, "keys": ["ü" * (number % 50)]} for number in range(300)]
    text = "".join(json.dumps(facts, ensure_ascii=False) + "\n" for facts in written)
    (tmp_path / METRICS).write_text(text, encoding="utf-8")
    assert read_metrics(tmp_path) == written


def test_of_a_long_file_the_end_alone_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / METRICS).write_bytes(b"\n".join(line(number) for number in range(100_000)))
    parsed: list[bytes] = []
    loads = json.loads

    def count(text: bytes) -> Any:
        parsed.append(text)
        return loads(text)

    monkeypatch.setattr("maskrestore.runs.metrics_file.json.loads", count)
    assert next(newest_first(tmp_path)) == {"num_images": 99_999}
    assert len(parsed) == 1


def test_a_last_line_longer_than_a_block_is_found(tmp_path: Path) -> None:
    long = {"num_images": 2, "skipped": {"keys": ["a_long_name"] * 10_000}}
    (tmp_path / METRICS).write_text('{"num_images": 1}\n' + json.dumps(long) + "\n")
    assert next(newest_first(tmp_path)) == long


def test_whether_a_run_was_evaluated(tmp_path: Path) -> None:
    (tmp_path / METRICS).write_bytes(
        b"\n".join([line(8), line(8, evaluation={}), line(16), line(24, evaluation={})[:-2]])
    )
    assert [was_evaluated(tmp_path, number) for number in (0, 8, 16, 24)] == [False, True] + [
        False
    ] * 2
