"""Shards from URLs: real servers and commands, faults of theirs, and manifests that mean harm."""

import json
import os
import resource
import shutil
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from forked import ROOT, start_program
from shard_server import Server, config_for, images_of, server

from maskrestore.config.run import RunConfig
from maskrestore.data import fetch as shard_cache
from maskrestore.data.fetch import fetch, fetch_manifest
from maskrestore.data.loader import training_batches
from maskrestore.data.manifest import read_manifest
from maskrestore.data.shard_folder import find_bad_shards
from maskrestore.utils.errors import UserError

READING = ROOT / "tests" / "programs" / "reading.py"
FIRST = "train-000000.tar"

__all__ = ["server"]  # a fixture


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_cache, "PAUSE", 0)


def message_of(config: RunConfig) -> str:
    with pytest.raises(UserError) as caught:
        images_of(config)
    return str(caught.value)


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def test_every_file_is_fetched_once_and_a_second_run_fetches_nothing(
    server: Server, shards: Path, tmp_path: Path
) -> None:
    config = config_for(tmp_path / "cache", server.url)
    expected = images_of(config_for(shards))
    assert images_of(config) == expected
    assert server.requests == Counter([*(p.name for p in shards.glob("*.tar")), "manifest.json"])
    for path in shards.glob("*.tar"):
        assert (tmp_path / "cache" / path.name).read_bytes() == path.read_bytes()
    server.requests.clear()
    assert images_of(config) == expected
    assert not server.requests


def test_a_shard_is_fetched_only_when_it_is_needed(server: Server, tmp_path: Path) -> None:
    words = ["training.batch_size=2", "data.prefetch_batches=1", "data.shuffle_shards=1"]
    batches = training_batches(config_for(tmp_path / "cache", server.url, *words), 0, 0, 1)
    next(batches)
    batches.close()
    assert server.requests.total() == 2  # the manifest and the first of four shards
    assert len(list((tmp_path / "cache").glob("train-*.tar"))) == 1


def a_file_url(folder: Path, _: Path) -> str:
    return folder.as_uri()


def a_pipe(folder: Path, _: Path) -> str:
    return f"pipe:cat '{folder}'/{{}}"


def an_s3_bucket(folder: Path, programs: Path) -> str:
    """What `aws s3 cp URL -` does, for a bucket that is a folder."""
    programs.mkdir()
    aws = programs / "aws"
    aws.write_text(
        '#!/bin/sh\n[ "$1 $2 $4" = "s3 cp -" ] || exit 252\n'
        f"cat '{folder}'/\"${{3#s3://bucket/some/folder/}}\"\n"
    )
    aws.chmod(0o755)
    return "s3://bucket/some/folder/"


@pytest.mark.parametrize("url_of", [a_file_url, a_pipe, an_s3_bucket])
def test_other_schemes_give_the_same_samples(
    url_of: Callable[[Path, Path], str],
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = Path(shutil.copytree(shards, tmp_path / "100% of it"))
    url = url_of(folder, tmp_path / "programs")
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:{os.environ['PATH']}")
    assert images_of(config_for(tmp_path / "cache", url)) == images_of(config_for(shards))


@pytest.mark.parametrize("fault", ["cut off", "cut off, of unknown length", "changed", "refused"])
def test_a_bad_download_is_tried_again_and_never_kept(
    server: Server, shards: Path, tmp_path: Path, fault: str
) -> None:
    cache = tmp_path / "cache"
    config = config_for(cache, server.url)
    server.faults = {FIRST: [fault] * 2, "manifest.json": ["cut off"] * 2}
    assert images_of(config) == images_of(config_for(shards))
    assert server.requests[FIRST] == server.requests["manifest.json"] == 3
    (cache / FIRST).unlink()
    before = files_of(cache)
    server.faults = {FIRST: [fault] * 3}
    message = message_of(config)
    assert f"{server.url}/{FIRST}: " in message
    assert "(3 attempts)" in message
    reason = {"cut off": "curl: cut off", "refused": "curl: refused by the server"}
    assert reason.get(fault, "not those of the manifest") in message
    assert files_of(cache) == before


def test_a_command_that_fails_or_prints_nothing_is_named(tmp_path: Path) -> None:
    for command, reason in (
        ("cat {} 2>&-; exit 7", "the command ended with status 7"),
        ("true {}", "is empty or not there"),
    ):
        message = message_of(config_for(tmp_path / "cache", f"pipe:{command}"))
        assert message.startswith(command.replace("{}", "manifest.json"))
        assert reason in message
    message = message_of(config_for(tmp_path / "cache", (tmp_path / "nowhere").as_uri()))
    assert "cannot be fetched: [Errno 2] No such file or directory" in message
    assert "curl: no connection" in message_of(config_for(tmp_path, "http://127.0.0.1:9/shards"))


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    """The command behind the pipe fails as well, for want of a reader; that is not the reason."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot be fetched: \[Errno 27\] File too large"):
            fetch(tmp_path, "pipe:yes {} || exit 5", FIRST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert files_of(tmp_path) == set()


def test_an_url_of_no_known_form_and_a_cache_that_cannot_be_written(
    server: Server, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    assert "data.url=ftp://host: must begin with http://" in message_of(
        config_for(cache, "ftp://host")
    )
    assert "data.url=pipe:cat: write {}" in message_of(config_for(cache, "pipe:cat"))
    cache.write_text("a file")
    message = message_of(config_for(cache, server.url))
    assert f"data.shards={cache} cannot be written: Not a directory" in message


def test_what_is_no_manifest_is_not_kept(server: Server, shards: Path, tmp_path: Path) -> None:
    manifest = server.folder / "manifest.json"
    manifest.write_text("<html>Please log in</html>")
    config = config_for(tmp_path / "cache", server.url)
    message = message_of(config)
    assert f"data.url={server.url}: " in message
    assert "is not a shard manifest" in message
    shutil.copy(shards / "manifest.json", manifest)
    assert images_of(config) == images_of(config_for(shards))


def test_data_that_changed_behind_the_url_are_noticed(server: Server, tmp_path: Path) -> None:
    config, cache = config_for(tmp_path / "cache", server.url), tmp_path / "cache"
    fetch_manifest(config.data)
    for split in ("train", "val"):
        for path in server.folder.glob(f"{split}-*.tar"):
            path.write_bytes(path.read_bytes() + bytes(512))
    assert f"has changed, delete {cache} to fetch all of it again" in message_of(config)


HOSTILE = ["../x.tar", "/etc/passwd", "a/b.tar", "-o.tar", ".hidden", "$(touch evil)", "a b.tar"]
HOSTILE += ["a;touch evil", "`touch evil`", "a\n", "", "x" * 201, "ü.tar", "..", 7, None]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_shard_name_that_is_no_plain_file_name_is_refused(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any
) -> None:
    facts = json.loads((shards / "manifest.json").read_text())
    facts["splits"]["train"]["shards"][0]["name"] = name
    served = tmp_path / "served"
    served.mkdir()
    (served / "manifest.json").write_text(json.dumps(facts))
    monkeypatch.chdir(tmp_path)
    message = message_of(config_for(tmp_path / "cache", "pipe:cat served/{} && test {}"))
    assert "is not a shard manifest" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "served"]
    assert files_of(tmp_path / "cache") == set()


@pytest.mark.parametrize("key", ["../../x", "/etc/x", "a/b", "..", ".x", "", "x" * 201, "\0", 7])
def test_a_key_that_is_no_plain_file_name_is_refused(
    shards: Path, tmp_path: Path, key: Any
) -> None:
    facts = json.loads((shards / "manifest.json").read_text())
    facts["splits"]["val"]["shards"][0]["samples"][0]["key"] = key
    (tmp_path / "manifest.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="is not a shard manifest"):
        read_manifest(tmp_path)


def test_threads_that_ask_at_once_fetch_it_once(server: Server, tmp_path: Path) -> None:
    server.pause = 0.1
    with ThreadPoolExecutor(4) as pool:
        fetches = [pool.submit(fetch, tmp_path, server.url, FIRST) for _ in range(4)]
    assert [future.result() for future in fetches] == [None] * 4
    assert server.requests == {FIRST: 1}


@pytest.mark.slow
def test_processes_that_ask_at_once_fetch_each_shard_once(
    server: Server, shards: Path, tmp_path: Path
) -> None:
    """Two ranks without any process group: nothing but the folder tells one of the other."""
    server.pause = 0.2
    words = [f"data.shards={tmp_path / 'cache'}", f"data.url={server.url}", "data.size=32x64"]
    ranks = [
        start_program([str(READING), str(rank), *words, "training.batch_size=8"])
        for rank in range(2)
    ]
    printed = [rank.communicate(timeout=120)[0].split() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert sorted(printed[0] + printed[1]) == sorted(2 * all_keys(shards))
    names = [path.name for path in shards.glob("train-*.tar")]
    assert server.requests == Counter([*names, "manifest.json"])


def all_keys(folder: Path) -> list[str]:
    shards = read_manifest(folder)["splits"]["train"]["shards"]
    return [sample["key"] for shard in shards for sample in shard["samples"]]


def test_shards_that_cannot_be_fetched_are_left_out(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (server.folder / FIRST).unlink()
    config = config_for(tmp_path / "cache", server.url)
    bad_of_ranks = [find_bad_shards(config.data, ("train", "val"), rank, 2) for rank in range(2)]
    assert sorted(bad_of_ranks, key=len) == [set(), {FIRST}]
    assert f"left out: {server.url}/{FIRST}: curl: refused by the server" in capsys.readouterr().err
    assert server.requests[FIRST] == 3
    assert files_of(tmp_path / "cache") == files_of(server.folder)  # all others were fetched
    batches = training_batches(config, 0, 0, 1, bad_of_ranks[0] | bad_of_ranks[1])
    seen = {key for batch in islice(batches, 6) for key in batch.keys}
    batches.close()
    assert len(seen) == 12
