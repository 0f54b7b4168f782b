"""Fixtures that several files share: small shards of procedural street scenes."""

import signal
from pathlib import Path

import pytest

from shards.write import WriteConfig, write_shards

# A shell starts its background jobs with Ctrl-C ignored, and programs inherit that. The tests that
# press Ctrl-C need it to mean something, however pytest itself was started.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 train and 5 val scenes of 32x64 in several tars, from the real writer."""
    folder = tmp_path_factory.mktemp("streetscenes")
    write_shards(
        WriteConfig(
            source="streetscenes",
            size="32x64",
            num_train=16,
            num_val=5,
            out=folder,
            samples_per_shard=4,
            workers=1,
        )
    )
    return folder
