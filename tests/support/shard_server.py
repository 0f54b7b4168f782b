"""A web server of shards that counts and fails, and what a run reads through it."""

import shutil
import time
from collections import Counter
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from maskrestore.config.run import RunConfig, load_config
from maskrestore.data.loader import training_batches, val_batches


class Server:
    """A web server of a folder that counts what it is asked for, and fails where it is told to.

    faults: file name -> what happens to its next requests, in turn; then all is well again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.requests = folder, Counter[str]()
        self.faults: dict[str, list[str]] = {}
        self.pause = 0.0
        server = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: Any) -> None:
                """Nothing: pytest shows what went wrong."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/shards"
        self.thread = Thread(target=self.http.serve_forever, args=[0.02])
        self.thread.start()

    def answer(self, request: SimpleHTTPRequestHandler) -> None:
        name = request.path.removeprefix("/shards/")
        self.requests[name] += 1
        faults = self.faults.get(name, [])
        fault = faults.pop(0) if faults else ""
        if fault == "refused" or not (self.folder / name).is_file():
            request.send_error(404)
            return
        content = (self.folder / name).read_bytes()
        request.send_response(200)
        if fault != "cut off, of unknown length":
            request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        time.sleep(self.pause)
        if fault.startswith("cut off"):
            content = content[: len(content) // 2]
        elif fault == "changed":
            content = content[:-1] + b"!"
        request.wfile.write(content)

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture
def server(shards: Path, tmp_path: Path) -> Iterator[Server]:
    server = Server(Path(shutil.copytree(shards, tmp_path / "served")))
    yield server
    server.close()


def config_for(folder: Path, url: str = "", *words: str) -> RunConfig:
    own = [f"data.shards={folder}", "data.size=32x64", "training.batch_size=8"]
    return load_config([*own, *([f"data.url={url}"] if url else []), *words])


def images_of(config: RunConfig) -> list[bytes]:
    """The pixels of the first epoch of 16 samples and of the val split."""
    training = training_batches(config, 0, 0, 1)
    batches = [*islice(training, 2), *val_batches(config, 0, 1)]
    training.close()
    return [image.numpy().tobytes() for batch in batches for image in batch.image]
