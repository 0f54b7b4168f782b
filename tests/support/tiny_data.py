"""What tests that train start from: shards of drawn street scenes, an image generator, words."""

from pathlib import Path

import pytest
import torch
from label_sets import NUM_CLASSES
from tiny_runs import TINY, Words

from maskrestore.models.spade import SPADEGenerator
from maskrestore.models.weights import save_spade_generator
from shards.write import WriteConfig, write_shards


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


@pytest.fixture
def words(shards: Path, generator: Path, tmp_path: Path) -> Words:
    """The words of a tiny run in tmp_path/NAME."""

    def make(name: str, *more: str) -> list[str]:
        own = [f"data.shards={shards}", f"run={tmp_path / name}", f"generator.path={generator}"]
        return [*TINY, *own, *more]

    return make


@pytest.fixture(scope="session")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the official layout, of a tiny image generator that knows its batch statistics.

    With those it was born with its tanh saturates, and no gradient comes through.
    """
    torch.manual_seed(0)
    network = SPADEGenerator(NUM_CLASSES + 2, 4, 8, (32, 64))
    with torch.no_grad():
        for _ in range(40):
            network(torch.randn(4, NUM_CLASSES + 2, 8, 16).softmax(1))
    path = tmp_path_factory.mktemp("generator") / "generator.pth"
    save_spade_generator(network, path)
    return path
