"""The pictures that an evaluation leaves."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from label_sets import LABELS
from PIL import Image
from tiny_evaluation import CPU, HEIGHT, WIDTH, FillRoad, Painter, batch_of, config_of

from maskrestore.evaluation.evaluate import evaluate
from maskrestore.evaluation.pictures import contact_sheet

KINDS = ("input", "restored", "synthesized", "true_mask", "real")


def names_of(indices: Iterable[int], kinds: Iterable[str] = KINDS) -> set[str]:
    return {f"scene_{index}_{kind}.png" for index in indices for kind in kinds}


def test_pictures_of_the_first_samples_and_their_sheet(tmp_path: Path) -> None:
    folder, batches = tmp_path / "pictures", [batch_of(0, 1), batch_of(2)]
    config = config_of("task=densify", "evaluation.num_pictures=3")
    evaluate(config, batches, FillRoad(), Painter(), CPU, folder)
    assert {path.name for path in folder.iterdir()} == names_of(range(3))
    for path in folder.iterdir():
        with Image.open(path) as image:
            assert (image.mode, image.size) == ("RGB", (WIDTH, HEIGHT))
    with Image.open(folder / "scene_2_real.png") as image:
        assert image.getpixel((5, 4)) == tuple(batches[1].image[0, :, 4, 5].tolist())
    with Image.open(folder / "scene_2_true_mask.png") as image:
        assert image.getpixel((5, 4)) == LABELS[int(batches[1].fine[0, 4, 5])].color
    with Image.open(folder / "scene_0_restored.png") as image:
        row, column = (batches[0].coarse[0] == 0).nonzero()[0].tolist()
        assert image.getpixel((column, row)) == (128, 64, 128)  # road

    contact_sheet(folder, tmp_path / "samples" / "000000100.png")
    with Image.open(tmp_path / "samples" / "000000100.png") as sheet:
        assert sheet.width > 5 * WIDTH
        assert sheet.height > 3 * HEIGHT

    # A later evaluation leaves no picture of other samples behind.
    evaluate(config, [batch_of(7)], FillRoad(), None, CPU, folder)
    assert {path.name for path in folder.iterdir()} == names_of([7], set(KINDS) - {"synthesized"})


@pytest.mark.parametrize("num_pictures", [0, 1, 2])
def test_pictures_of_the_worst_and_the_best_samples(tmp_path: Path, num_pictures: int) -> None:
    folder = tmp_path / "pictures"
    config = config_of("task=densify", f"evaluation.num_pictures={num_pictures}")
    batches = [batch_of(4, 8, 1, 9), batch_of(3), batch_of(0, 2, 7, 6, 5)]
    evaluate(config, batches, FillRoad(), None, CPU, folder)
    samples = json.loads((tmp_path / "samples.json").read_text())
    assert [sample["key"] for sample in samples] == [f"scene_{index}" for index in range(10)]
    for index, sample in enumerate(samples):
        alone = evaluate(config, [batch_of(index)], FillRoad(), None, CPU)
        assert sample["accu"] == alone["accu"]
        for name in ("miou19", "boundary_f3"):
            assert sample[name] == pytest.approx(alone[name], rel=1e-12)
    ranked = sorted(range(10), key=lambda index: samples[index]["accu"])
    assert len({sample["accu"] for sample in samples}) == 10
    shown = {*[4, 8][:num_pictures], *ranked[:num_pictures], *ranked[10 - num_pictures :]}
    kinds = set(KINDS) - {"synthesized"}
    assert {path.name for path in folder.iterdir()} == names_of(shown, kinds)
    for index in shown:
        with Image.open(folder / f"scene_{index}_real.png") as image:
            seen = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        assert torch.equal(seen, batch_of(index).image[0])


def test_without_restored_masks_there_is_no_worst_sample(tmp_path: Path) -> None:
    config = config_of("task=synthesis", "evaluation.num_pictures=1")
    evaluate(config, [batch_of(0, 1, 2)], None, Painter(), CPU, tmp_path / "pictures")
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]
    kinds = ("synthesized", "true_mask", "real")
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == names_of([0], kinds)


def test_no_pictures_give_no_sheet(tmp_path: Path) -> None:
    contact_sheet(tmp_path, tmp_path / "sheet.png")
    assert list(tmp_path.iterdir()) == []
