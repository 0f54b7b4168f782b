"""Shards that come from a URL: fetched whole, checked, kept in the folder that they are read from.

The home of webdataset, whose gopen knows the protocols.
"""

import fcntl
import hashlib
import os
import re
import shlex
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from maskrestore.config.data import DataConfig
from maskrestore.data.manifest import MANIFEST, read_manifest
from maskrestore.utils.errors import UserError
from maskrestore.utils.files import flock, name_beside, sync, sync_folder

ATTEMPTS = 3
PAUSE = 1.0
"""Seconds before the second attempt; twice as many before the third."""
BLOCK = 1 << 20
SCHEMES = ("http://", "https://", "file://")
CURL_STATUS = {6: "no such host", 7: "no connection", 18: "cut off", 22: "refused by the server"}


_failed_attempts: list[str] = []


def num_failed_attempts() -> int:
    """Attempts to fetch a file that failed on this process so far."""
    return len(_failed_attempts)


def fetch_manifest(config: DataConfig) -> None:
    """Fetch data.url's manifest.json into data.shards, unless there is one or nothing to fetch.

    UserError if it cannot be had or is none.
    """
    path = config.shards / MANIFEST
    if not config.url or path.is_file():
        return
    fetch(config.shards, config.url, MANIFEST)
    try:
        read_manifest(config.shards)
    except UserError as error:
        path.unlink(missing_ok=True)  # else it would be kept, and data.url never asked again
        raise UserError(f"data.url={config.url}: {error}") from error


def fetch(folder: Path, url: str, name: str, expected: dict[str, Any] | None = None) -> None:
    """Have the file `name` of `url` in `folder`, whole or not at all; one process fetches it, and
    others that ask for it wait.

    expected: its entry in the manifest, whose num_bytes and sha256 the file must have. Raises
    UserError if it cannot be had or is another one.
    """
    source, reason = address(url, name), ""
    try:
        (folder / ".locks").mkdir(parents=True, exist_ok=True)
        guard = open(folder / ".locks" / name, "a")  # noqa: SIM115 - closed by the next `with`
    except OSError as error:
        raise UserError(f"data.shards={folder} cannot be written: {error.strerror}") from error
    with guard:
        flock(guard, fcntl.LOCK_EX)
        for attempt in range(ATTEMPTS):
            if (folder / name).is_file():  # also: another process was faster
                return
            if attempt:
                time.sleep(PAUSE * attempt)
            try:
                reason = _download(source, folder / name, expected)
            except OSError as error:
                reason = _explain(error, source)
            if not reason:
                return
            _failed_attempts.append(source)
    raise UserError(
        f"{source.removeprefix('pipe:')}: {reason} ({ATTEMPTS} attempts). If the data at data.url "
        f"has changed, delete {folder} to fetch all of it again"
    )


def address(url: str, name: str) -> str:
    """What gopen is given for the file `name` of data.url. UserError if it is no known form.

    `name` is a plain file name (manifest.py sees to that), for it may become part of a command.
    """
    if url.startswith("pipe:"):
        if "{}" not in url:
            raise UserError(f"data.url={url}: write {{}} where the name of the file goes")
        return url.replace("{}", shlex.quote(name))
    if url.startswith("s3://"):
        return f"pipe:aws s3 cp {shlex.quote(url.rstrip('/') + '/' + name)} -"
    if not url.startswith(SCHEMES):
        raise UserError(f"data.url={url}: must begin with {', '.join(SCHEMES)}, s3:// or pipe:")
    return f"{url.rstrip('/')}/{name}"


def _download(source: str, path: Path, expected: dict[str, Any] | None) -> str:
    """Why the file is not the expected one; empty if it is, and then it is there."""
    from webdataset import gopen  # shards that lie in a folder need it not

    beside = name_beside(path)
    digest, size = hashlib.sha256(), 0
    total = expected["num_bytes"] if expected else None
    bar = tqdm(
        desc=f"fetch {path.name}",
        total=total,
        unit="B",
        unit_scale=True,
        delay=2,
        leave=False,
        disable=not sys.stderr.isatty(),
    )
    try:
        with bar, open(beside, "wb") as file:
            stream = gopen(source, "rb")
            try:
                while block := stream.read(BLOCK):
                    file.write(block)
                    digest.update(block)
                    size += len(block)
                    bar.update(len(block))
            except BaseException:
                with suppress(OSError):  # in the wake of what went wrong first
                    stream.close()
                raise
            stream.close()  # raises OSError if the command behind it failed
            sync(file)
        if not size:
            return "is empty or not there"
        if expected and (size, digest.hexdigest()) != (total, expected["sha256"]):
            return f"has {size} bytes, sha256 {digest.hexdigest()[:12]}…, not those of the manifest"
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(path.parent)
    return ""


def _explain(error: OSError, source: str) -> str:
    """In the user's words; gopen's are those of the command behind it."""
    status = re.search(r": exit (-?\d+) \(read\)", str(error))
    if not status:
        return f"cannot be fetched: {error}"
    if source.startswith("pipe:"):
        return f"the command ended with status {status[1]}"
    return f"curl: {CURL_STATUS.get(int(status[1]), f'status {status[1]}')}"
