"""Exporters on loopback that answer what a run answers while it trains: for many_runs.py."""

import asyncio
import re
import time
import urllib.request
from functools import partial
from multiprocessing.connection import Connection

from maskrestore.monitoring.exporter import METRICS, PREFIX, Exporter
from maskrestore.monitoring.telemetry import STATES

HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n"
LABELS = {
    "state": STATES,
    "term": ("ce", "vgg", "l1", "gradient"),
    "network": ("mask_generator", "image_generator"),
    "metric": ("accu", "miou19", "miou_all", "fid", "kid"),
    "phase": ("data", "mask_generator", "image_generator", "perceptual", "backward", "other"),
    "rank": ("0",),
    "kind": ("host", "allocated", "reserved"),
}
"""Values that each label takes."""
RATES = {
    "beats_total": 2.0,
    "images_total": 32.0,
    "seen_images": 32.0,
    "step_seconds_count": 2.0,
    "step_seconds_sum": 1.0,
    "step_phase_seconds_total": 1 / 6,
    "data_wait_seconds_total": 1 / 6,
}
"""Metric -> how much more there is of it each second."""


def page_of_a_run() -> str:
    """What a real exporter answers once all that it can tell is known."""
    exporter = Exporter(True, True)
    for name, metric in METRICS.items():
        combinations: list[dict[str, str]] = [{}]
        for label in metric.labels:
            values = LABELS.get(label, ("word",)) if name != "run_info" else ("word",)
            combinations = [{**some, label: value} for some in combinations for value in values]
        for labels in combinations:
            if metric.kind == "histogram":
                exporter.observe(name, [0.5])
            elif metric.kind == "gauge":
                exporter.set(name, 1, **labels)
            else:
                exporter.add(name, 1, **labels)
    for state in STATES:
        exporter.set("state", state == "training", state=state)
    port = exporter.serve("127.0.0.1", 0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())
    finally:
        exporter.close()


def serve_exporters(connection: Connection, number: int) -> None:
    """Answer on so many ports, whose addresses go through the connection, for ever."""
    asyncio.run(_serve(connection, number))


async def _serve(connection: Connection, number: int) -> None:
    page, began = page_of_a_run(), time.monotonic()
    moving = re.compile(rf"^({PREFIX}({'|'.join(RATES)})(?:{{.*}})?) .*$", re.MULTILINE)

    def now(phase: int) -> bytes:
        seconds = time.monotonic() - began + phase
        body = moving.sub(lambda m: f"{m[1]} {RATES[m[2]] * seconds:.3f}", page).encode()
        head = f"{HEAD}Content-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    async def answer(
        phase: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(now(phase))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    servers = [
        await asyncio.start_server(partial(answer, phase), "127.0.0.1", 0)
        for phase in range(number)
    ]
    connection.send([f"127.0.0.1:{server.sockets[0].getsockname()[1]}" for server in servers])
    await asyncio.Event().wait()
