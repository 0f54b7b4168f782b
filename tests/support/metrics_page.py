"""What a run answers to Prometheus, for the tests that ask it."""

import json
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from forked import Process
from processes import PATIENCE
from prometheus_client.parser import text_string_to_metric_families

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def targets_in(folder: Path) -> list[tuple[str, dict[str, str]]]:
    """Address and labels in each target file."""
    targets = []
    for path in sorted(folder.glob("*.json")):
        [entry] = json.loads(path.read_text())
        targets.append((entry["targets"][0], entry["labels"]))
    return targets


def scrape(address: str) -> Series:
    """All series of an address, without their prefix."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name.removeprefix("maskrestore_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(series: Series, name: str, **labels: str) -> float:
    return series[name, frozenset(labels.items())]


def by_label(series: Series, name: str, label: str) -> dict[str, float]:
    """A metric's values by one of its labels."""
    return {dict(key)[label]: number for (other, key), number in series.items() if other == name}


def wait_for(folder: Path, number: int, ranks: Sequence[Process], **least: float) -> list[Series]:
    """The series of each of `number` targets, in the order of their files, as soon as the first one
    that has them has values of at least so much."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        ended = [rank for rank in ranks if rank.poll() is not None]
        assert not ended, ended[0].communicate()[1]
        try:
            pages = [scrape(address) for address, _ in targets_in(folder)]
        except OSError:  # written, and not yet or no longer answered
            pages = []
        everything = {key: number for series in reversed(pages) for key, number in series.items()}
        if len(pages) == number and all(
            everything.get((name, frozenset()), -1.0) >= low for name, low in least.items()
        ):
            return pages
        time.sleep(0.1)
    raise AssertionError(f"no {number} targets with {least} in {folder}")
