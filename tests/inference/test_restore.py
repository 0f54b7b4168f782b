"""restore.py: what comes out of users' masks, by the program itself."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from label_sets import LABELS, TRAIN_IDS, one_hot
from masks import (
    SIZE,
    config_of,
    draw_image,
    draw_mask,
    make_run,
    probabilities_of,
    read,
    restore,
    rows_of,
)
from PIL import Image
from tiny_runs import Words, run_train

from maskrestore.data.loader import val_batches
from maskrestore.data.segmap import to_uint8
from maskrestore.models.build import load_frozen_generator
from maskrestore.utils.file_names import KNOWN_BLACK

pytestmark = pytest.mark.slow


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def test_a_trained_run_restores_as_in_its_own_evaluation(words: Words, tmp_path: Path) -> None:
    trained = words(
        "trained", "task=densify", "loss=ce", "training.num_images=8", "generator.path=none"
    )
    assert run_train(trained).returncode == 0
    run = tmp_path / "trained"
    config = config_of(run)
    (tmp_path / "in").mkdir()
    for batch in val_batches(config, 0, 1):
        for key, coarse in zip(batch.keys, batch.coarse, strict=True):
            Image.fromarray(coarse.numpy().astype(np.uint8)).save(tmp_path / f"in/{key}.png")
    done = restore(run, tmp_path / "in", tmp_path / "out", "keep_annotated=false")
    assert done.returncode == 0, done.stderr
    pictures = sorted((run / "pictures").glob("*_restored.png"))
    assert pictures
    colors = np.array([label.color for label in LABELS])
    for picture in pictures:
        assert np.array_equal(colors[read(tmp_path / "out" / picture.name)], read(picture))


def test_masks_of_the_models_size_come_out_as_the_network_says(run: Path, tmp_path: Path) -> None:
    ids = {name: draw_mask(tmp_path / "in" / f"{name}.png", seed=i) for i, name in enumerate("ab")}
    ids["deep/er/c"] = draw_mask(tmp_path / "in/deep/er/c.png", seed=9)
    for fit in ("resize", "tile"):
        out = tmp_path / fit
        done = restore(run, tmp_path / "in", out, f"fit={fit}", "keep_annotated=false")
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith(f"restored: 3\n{out}/summary.csv\n")
        for name, given in ids.items():
            probabilities = probabilities_of(run, given)
            best, labels = probabilities.max(0)
            assert np.array_equal(read(out / f"{name}_restored.png"), labels.numpy())
            confidence = read(out / f"{name}_confidence.png").astype(int)
            assert np.abs(confidence - (255 * best).round().numpy()).max() <= 1
            row = rows_of(out)[f"{name}.png"]
            annotated = given != 0
            assert float(row["annotated"]) == pytest.approx(annotated.mean(), abs=1e-4)
            changed = (labels.numpy() != given)[annotated].mean()
            assert float(row["contradicted"]) == pytest.approx(changed, abs=1e-4)
            assert float(row["confidence"]) == pytest.approx(best.mean().item(), abs=2e-3)
            assert float(row["below_half"]) == pytest.approx(
                (best < 0.5).double().mean().item(), abs=0.01
            )
        assert not list(out.rglob("*.partial"))


def test_the_precision_is_the_runs_unless_another_is_given(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "distributed.precision=bf16")
    draw_mask(tmp_path / "in/a.png")
    confidence = {}
    for name, more in (("own", []), ("bf16", ["precision=bf16"]), ("fp32", ["precision=fp32"])):
        done = restore(run, tmp_path / "in", tmp_path / name, *more)
        assert done.returncode == 0, done.stderr
        confidence[name] = (tmp_path / name / "a_confidence.png").read_bytes()
    assert confidence["own"] == confidence["bf16"] != confidence["fp32"]
    again = restore(run, tmp_path / "in", tmp_path / "own", "precision=bf16")
    assert "done before: 1" in again.stdout


def test_annotation_is_kept_and_what_contradicts_it_is_shown(run: Path, tmp_path: Path) -> None:
    given = draw_mask(tmp_path / "in/a.png")
    done = restore(run, tmp_path / "in/a.png", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    probabilities = probabilities_of(run, given)
    labels, annotated = probabilities.argmax(0).numpy(), given != 0
    assert (labels != given)[annotated].any()
    restored = read(tmp_path / "out/a_restored.png")
    assert np.array_equal(restored, np.where(annotated, given, labels))
    expected = probabilities.gather(0, torch.from_numpy(restored.copy())[None].long())[0]
    confidence = read(tmp_path / "out/a_confidence.png").astype(int)
    assert np.abs(confidence - (255 * expected).round().numpy()).max() <= 1
    overlay = read(tmp_path / "out/a_overlay.png")
    contradicted = annotated & (labels != given)
    assert (overlay[contradicted] == (255, 0, 255)).all()
    colors = np.array([label.color for label in LABELS])[restored]
    same = annotated & ~contradicted
    assert (overlay[same] == colors[same]).all()
    left, top, right, bottom = map(
        int, rows_of(tmp_path / "out")["a.png"]["regions"].split(";")[0].split()
    )
    assert 0 <= left < right <= 64
    assert 0 <= top < bottom <= 32
    assert (confidence[top:bottom, left:right] < 128).any()


def test_other_sizes_are_shrunk_tiled_or_padded(run: Path, tmp_path: Path) -> None:
    small, large = tmp_path / "in/small.png", tmp_path / "in/large.png"
    draw_mask(small, 20, 40, seed=1)
    draw_mask(large, 100, 50, seed=2)
    for fit in ("resize", "tile"):
        done = restore(run, tmp_path / "in", tmp_path / fit, f"fit={fit}", "batch_size=3")
        assert done.returncode == 0, done.stderr
        assert read(tmp_path / fit / "small_restored.png").shape == (20, 40)
        assert read(tmp_path / fit / "large_restored.png").shape == (100, 50)
        assert read(tmp_path / fit / "large_overlay.png").shape == (100, 50, 3)
    padded = np.zeros(SIZE, np.uint8)
    padded[:20, :40] = given = read(small)
    expected = probabilities_of(run, padded).argmax(0).numpy()[:20, :40]
    restored = read(tmp_path / "tile/small_restored.png")
    assert np.array_equal(restored, np.where(given != 0, given, expected))


def test_each_encoding_comes_out_as_it_went_in(run: Path, tmp_path: Path) -> None:
    ids = draw_mask(tmp_path / "ids/a.png")
    train_ids = np.array(TRAIN_IDS, np.uint8)
    colors = np.array([label.color for label in LABELS], np.uint8)
    evaluated = np.where(train_ids[ids] == 255, 0, ids)
    for name, table in (("train_ids", train_ids), ("colors", colors)):
        (tmp_path / name).mkdir()
        Image.fromarray(table[evaluated]).save(tmp_path / name / "a.png")
    for name in ("ids", "train_ids", "colors"):
        done = restore(run, tmp_path / name, tmp_path / f"{name}-out")
        assert done.returncode == 0, done.stderr
        assert f"encoding: {name}\n" in done.stdout
    labels = probabilities_of(run, evaluated).argmax(0).numpy()
    restored = np.where(evaluated != 0, evaluated, labels)
    assert np.array_equal(read(tmp_path / "train_ids-out/a_restored.png"), train_ids[restored])
    assert np.array_equal(read(tmp_path / "colors-out/a_restored.png"), colors[restored])


def test_small_maps_come_out_larger(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "task=super_resolution", "degrade.factor=4")
    given = draw_mask(tmp_path / "in/a.png", 8, 16)
    draw_mask(tmp_path / "in/b.png", 20, 30)
    for fit in ("resize", "tile"):
        done = restore(run, tmp_path / "in", tmp_path / fit, f"fit={fit}")
        assert done.returncode == 0, done.stderr
        repeated = given.repeat(4, 0).repeat(4, 1)
        expected = probabilities_of(run, repeated).argmax(0).numpy()
        assert np.array_equal(read(tmp_path / fit / "a_restored.png"), expected)
        assert read(tmp_path / fit / "b_restored.png").shape == (80, 120)
        assert rows_of(tmp_path / fit)["a.png"]["annotated"] == "1.0"


def test_a_run_that_sees_pictures_is_given_them(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "condition=mask_image")
    given = draw_mask(tmp_path / "in/a.png")
    draw_mask(tmp_path / "in/b.png", 70, 130)
    image = draw_image(tmp_path / "pictures/a.png")
    draw_image(tmp_path / "pictures/b.png", 70, 130)
    done = restore(run, tmp_path / "in", tmp_path / "out")
    assert done.returncode == 2
    assert "images: must be given, as images=DIR" in done.stderr
    for fit in ("resize", "tile"):
        out = tmp_path / fit
        more = (f"images={tmp_path}/pictures", f"fit={fit}", "keep_annotated=false")
        done = restore(run, tmp_path / "in", out, *more)
        assert done.returncode == 0, done.stderr
        labels = probabilities_of(run, given, image).argmax(0).numpy()
        assert np.array_equal(read(out / "a_restored.png"), labels)
        colors = np.array([label.color for label in LABELS])[labels]
        assert np.array_equal(read(out / "a_overlay.png"), colors // 2 + image // 2)
        assert read(out / "b_restored.png").shape == (70, 130)


def test_a_cityscapes_tree_becomes_one_and_the_black_picture_is_left_out(
    run: Path, tmp_path: Path
) -> None:
    coarse, root = tmp_path / "data/gtCoarse", tmp_path / "data"
    keys = {"train/aachen": "aachen_000000_000019", "train_extra/troisdorf": KNOWN_BLACK}
    for folder, key in (keys | {"val/ulm": "ulm_000001_000019"}).items():
        draw_mask(coarse / folder / f"{key}_gtCoarse_labelIds.png")
        draw_mask(coarse / folder / f"{key}_gtCoarse_instanceIds.png")
        draw_image(root / "leftImg8bit" / folder / f"{key}_leftImg8bit.png")
    for source, beneath in ((root, "gtRestored/"), (coarse, "")):
        out = tmp_path / f"out-{source.name}"
        done = restore(run, source, out, f"images={root}")
        assert done.returncode == 0, done.stderr
        assert f"{KNOWN_BLACK}_gtCoarse_labelIds.png, a black picture" in done.stdout
        restored = sorted(str(path.relative_to(out)) for path in out.rglob("*_labelIds.png"))
        assert restored == [
            f"{beneath}train/aachen/aachen_000000_000019_gtRestored_labelIds.png",
            f"{beneath}val/ulm/ulm_000001_000019_gtRestored_labelIds.png",
        ]
        assert len(list(out.rglob("ulm_000001_000019_gtRestored_*.png"))) == 3
    done = restore(run, coarse / "train", tmp_path / "train", f"images={root}/leftImg8bit/train")
    assert done.returncode == 0, done.stderr


def test_images_are_synthesised_from_restored_masks(tmp_path: Path, generator: Path) -> None:
    run = make_run(tmp_path / "run", f"generator.path={generator}", "generator.edges=instance")
    draw_mask(tmp_path / "in/a.png", 64, 128)
    done = restore(run, tmp_path / "in", tmp_path / "out", "augment=true")
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "out/manifest.csv", newline="") as file:
        (pair,) = csv.DictReader(file)
    assert pair["input"] == "a.png"
    mask, image = read(tmp_path / "out" / pair["mask"]), read(tmp_path / "out" / pair["image"])
    assert np.array_equal(mask, read(tmp_path / "out" / pair["restored"])[1::2, 1::2])
    network = load_frozen_generator(config_of(run), torch.device("cpu"))
    assert network is not None
    segmap = one_hot(torch.from_numpy(mask.copy())[None].long())
    with torch.no_grad():
        expected = to_uint8(network(segmap, "argmax"))[0].permute(1, 2, 0).numpy()
    assert np.abs(image.astype(int) - expected).max() <= 1
