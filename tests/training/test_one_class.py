"""Data of one class: a label set that has no other is refused, masks that show no other are not."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_runs import TINY, run_train

from shards.write import main as write

pytestmark = pytest.mark.slow
ONE = "name: Crack\nnot_annotated: 0\nclasses: [{id: 1, name: crack, color: [255, 255, 255]}]\n"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Twelve pictures whose masks hold 1 in a part, and 0 elsewhere."""
    draw = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in map(str, range(12)):
        mask = np.zeros((32, 64), np.uint8)
        mask[5:25, 10:50] = 1
        Image.fromarray(mask).save(tmp_path / f"masks/{name}.png")
        image = draw.integers(0, 256, (32, 64, 3), np.uint8)
        Image.fromarray(image).save(tmp_path / f"images/{name}.png")
    return tmp_path


def words_of(raw: Path, labels: str, *more: str) -> list[str]:
    shards = raw / "shards"
    write([
        *("source=folder", f"images={raw / 'images'}", f"masks={raw / 'masks'}", f"out={shards}"),
        *(f"labels={labels}", "size=32x64", "workers=1", "encoding=ids"),
    ])  # fmt: skip
    own = (f"data.shards={shards}", f"data.labels={labels}", f"run={raw / 'run'}", "loss=ce")
    return [*TINY, "training.num_images=8", *own, *more]


def test_where_there_is_one_class_nothing_can_be_learnt(raw: Path) -> None:
    labels = raw / "one.yaml"
    labels.write_text(ONE)
    words = words_of(raw, str(labels))
    done = run_train(words)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[:-1] == [
        "data.labels=crack has one class alone, to which every mask would be restored: give what "
        "is around it as a class too"
    ]
    assert not (raw / "run").exists()
    # Without training there is something to be looked at: how much is annotated.
    done = run_train([*words, "loss=none"])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words", [("condition=mask_image", "weights.class_balance=0.4"), ("task=super_resolution",)]
)
def test_masks_of_one_class_out_of_many_are_restored_to_it(
    raw: Path, words: tuple[str, ...]
) -> None:
    for path in (raw / "masks").iterdir():  # wheat, or not annotated
        mask = np.asarray(Image.open(path))
        Image.fromarray(np.where(mask == 1, 1, 255).astype(np.uint8)).save(path)
    done = run_train(words_of(raw, "fields", *words))
    assert done.returncode == 0, done.stderr
    metrics = json.loads((raw / "run/result.json").read_text())["metrics"]
    assert metrics["accu"] > 0.9
    assert metrics["iou"]["wheat"] > 0.9
    assert all(value is None or 0 <= value <= 1 for value in metrics["iou"].values())
