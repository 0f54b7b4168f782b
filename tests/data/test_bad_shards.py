"""A shard that turns out to be damaged in the middle of a run on several processes."""

import json
from pathlib import Path

import pytest
from tiny_runs import Words, run_ranks

from maskrestore.config.run import RunConfig, load_config
from maskrestore.data.sampler import training_order
from maskrestore.data.shard_folder import ShardFolder
from shards.write import WriteConfig, write_shards

pytestmark = pytest.mark.slow


@pytest.fixture
def in_order(tmp_path: Path) -> Path:
    """Shards of two samples each, read one after another by data.shuffle_shards=1."""
    folder = tmp_path / "in-order"
    write = WriteConfig(
        size="32x64", num_train=12, num_val=4, out=folder, samples_per_shard=2, workers=1
    )
    write_shards(write)
    return folder


def damage_shard_of_step(config: RunConfig, step: int) -> str:
    """Flip a bit in the shard that the step (from 0, batches of two) reads; its name."""
    split = ShardFolder(config.data.shards, "train")
    [(sample, _), _] = training_order(config.seed, split.sizes, 2 * step, 2, window=1)
    name = str(split.shards[sample // 2]["name"])
    split.close()
    content = bytearray((config.data.shards / name).read_bytes())
    content[len(content) // 2] ^= 1
    (config.data.shards / name).write_bytes(content)
    return name


SMALL_SHARDS = (
    "data.shuffle_shards=1",
    "data.prefetch_batches=1",
    "loss=ce",
    "training.batch_size=2",
    "training.num_images=24",
    "training.checkpoint_images=1000",
)


def test_a_bad_shard_stops_all_processes_and_nothing_is_lost(
    words: Words, in_order: Path, tmp_path: Path
) -> None:
    given = words("run", f"data.shards={in_order}", *SMALL_SHARDS)
    name = damage_shard_of_step(load_config(given), 4)
    statuses, errors = run_ranks(given, 2)
    assert statuses == [2, 2], errors
    assert sum(f"{name} is damaged" in error for error in errors) >= 1
    assert "Traceback" not in "".join(errors)
    saves = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert saves[-1] == "000000008"  # the steps before it are saved


def test_a_bad_shard_is_left_out_and_counted_where_the_user_says_so(
    words: Words, in_order: Path, tmp_path: Path
) -> None:
    given = words("run", f"data.shards={in_order}", *SMALL_SHARDS, "data.bad_shards=skip")
    name = damage_shard_of_step(load_config(given), 4)
    statuses, errors = run_ranks(given, 2)
    assert statuses == [0, 0], errors
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["left_out_shards"] == [name]
    assert result["num_images"] == 24
