"""Telemetry without a run behind it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from maskrestore.config.run import load_config
from maskrestore.monitoring.telemetry import Telemetry


@pytest.fixture
def make_telemetry(tmp_path: Path) -> Callable[..., Telemetry]:
    """Of the first process of the run tmp_path / "run": more words of its settings, the nodes of
    its processes. Its target is in tmp_path / "targets"."""

    def make(*words: str, nodes: tuple[str, ...] = ("here",)) -> Telemetry:
        config = load_config([f"run={tmp_path / 'run'}", *words])
        return Telemetry(config, 0, nodes, torch.device("cpu"), 1)

    return make
