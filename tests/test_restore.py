"""restore.py: users' masks through a run's mask generator, by the program itself."""

import csv
import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import ROOT, run_program, start_program
from PIL import Image
from tiny_runs import run_ranks

from maskrestore import restoration
from maskrestore.config import RunConfig, load_config
from maskrestore.degrade import degrade, mask_generator_input
from maskrestore.evaluation import load_frozen_generator, load_mask_generator
from maskrestore.labels import LABELS, NUM_CLASSES
from maskrestore.mask_files import KNOWN_BLACK
from maskrestore.models.mask_generator import MaskGenerator
from maskrestore.models.pretrained import save_weights
from maskrestore.restore_config import RestoreConfig
from maskrestore.segmap import generator_input, one_hot, to_uint8
from maskrestore.settings import ConfigError, UserError, parse, to_yaml
from shards import cityscapes

SIZE = (32, 64)


def make_run(run: Path, *words: str, scale: float = 3.0) -> Path:
    """A run folder as training leaves it, with a random network that is sure of something."""
    run.mkdir(parents=True)
    config = load_config(
        [
            *("task=densify", "loss=ce", "data.size=32x64", f"run={run}"),
            *("mask_generator.width=8", "mask_generator.hidden=4", *words),
        ]
    )
    (run / "config.yaml").write_text(to_yaml(config))
    torch.manual_seed(0)
    shape = config.mask_generator
    network = MaskGenerator(
        NUM_CLASSES, shape.width, shape.hidden, SIZE, num_further=config.image_channels
    )
    with torch.no_grad():
        network.conv_logits.weight *= scale
    save_weights(network.state_dict(), run / "mask_generator.pth")
    return run


def config_of(run: Path) -> RunConfig:
    return load_config([f"config={run}/config.yaml"])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def draw_mask(path: Path, height: int = 32, width: int = 64, seed: int = 0) -> np.ndarray:
    """Blocks of classes 0 (not annotated) and 7..33."""
    draw = np.random.default_rng(seed)
    blocks = draw.choice([0, 0, *range(7, 34)], (-(-height // 8), -(-width // 8)))
    ids = blocks.repeat(8, 0).repeat(8, 1)[:height, :width].astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids).save(path)
    return ids


def draw_image(path: Path, height: int = 32, width: int = 64) -> np.ndarray:
    pixels = np.random.default_rng(5).integers(0, 256, (height, width, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def words_of(run: Path, source: Path, output: Path, *more: str) -> list[str]:
    return [f"checkpoint={run}", f"input={source}", f"output={output}", "device=cpu", *more]


def restore(run: Path, source: Path, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run_program([str(ROOT / "restore.py"), *words_of(run, source, output, *more)])


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def rows_of(output: Path) -> dict[str, dict[str, str]]:
    with open(output / "summary.csv", newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def probabilities_of(run: Path, ids: np.ndarray, image: np.ndarray | None = None) -> torch.Tensor:
    """[C,H,W], by the network itself."""
    config = config_of(run).model_copy(update={"run": run})
    label_map = torch.from_numpy(ids.copy())[None].long()
    pixels = torch.empty(0) if image is None else torch.from_numpy(image.copy())
    if image is not None:
        pixels = pixels.permute(2, 0, 1)[None]
    degraded, valid = degrade(config, label_map, label_map)
    network = load_mask_generator(config).eval()
    with torch.no_grad():
        logits = network(*mask_generator_input(config, degraded, valid, pixels))
    return logits[0].softmax(0)


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
    train_ids = np.array([label.train_id for label in LABELS], np.uint8)
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


def test_bad_masks_are_listed_at_the_end_and_the_rest_is_done(run: Path, tmp_path: Path) -> None:
    source, pictures = tmp_path / "in", tmp_path / "pictures"
    for number, name in enumerate(("good", "lonely", "other_size", "unknown")):
        ids = draw_mask(source / f"{name}.png", seed=number)
        draw_image(pictures / f"{name}.png", 32, 32 if name == "other_size" else 64)
    ids[3, 5] = 77
    Image.fromarray(ids).save(source / "unknown.png")
    Image.fromarray(ids.astype(np.uint16)).save(source / "k_instanceIds.png")
    (source / "cut.png").write_bytes((source / "good.png").read_bytes()[:90])
    (source / "text.png").write_text("no picture")
    (pictures / "lonely.png").unlink()
    done = restore(run, source, tmp_path / "out", f"images={pictures}")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "restored: 1, not restored: 6" in done.stdout
    assert done.stderr.count("\n  /") == 6
    for name, problem in {
        "unknown": "1 of 2048 pixels are of values that are not 0..33, the first 77",
        "k_instanceIds": "has 16 bits per channel: instanceIds? give the labelIds",
        "cut": "is not a whole PNG",
        "text": "is not a PNG",
        "lonely": f"there is no picture {pictures}/lonely.png",
        "other_size": "is 32x32, the restored mask will be 32x64",
    }.items():
        assert f"{source}/{name}.png: " in done.stderr
        assert problem in done.stderr
        assert problem in rows_of(tmp_path / "out")[f"{name}.png"]["problem"]
        assert not (tmp_path / f"out/{name}_restored.png").exists()
    assert (tmp_path / "out/good_restored.png").is_file()
    Image.fromarray(np.minimum(ids, 33)).save(source / "unknown.png")
    again = restore(run, source, tmp_path / "out", f"images={pictures}")
    assert "restored: 1, done before: 1, not restored: 5" in again.stdout
    assert rows_of(tmp_path / "out")["unknown.png"]["problem"] == ""


def test_the_same_command_continues_and_touches_nothing_else(run: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    for name in "abc":
        draw_mask(source / f"{name}.png", seed=ord(name))
    assert restore(run, source, out).returncode == 0
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    summary = (out / "summary.csv").read_bytes()
    assert len(before) == 9
    (out / "b_overlay.png").unlink()
    draw_mask(source / "c.png", seed=77)
    again = restore(run, source, out)
    assert "restored: 2, done before: 1" in again.stdout
    changed = {path.name[0] for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed == {"b", "c"}
    assert (out / "summary.csv").read_bytes() != summary
    facts = json.loads((out / "restore.json").read_text())
    assert facts["encoding"] == "ids"
    assert len(facts["checkpoint_sha256"]) == 64
    assert facts["commit"]

    done = restore(run, source, out, "fit=tile")
    assert done.returncode == 2
    assert "was made with other settings:\n  fit: resize -> tile" in done.stderr
    assert (out / "a_restored.png").stat().st_mtime_ns == before[out / "a_restored.png"]
    done = restore(run, source, out, "fit=tile", "overwrite=true")
    assert "restored: 3\n" in done.stdout
    assert (out / "a_restored.png").stat().st_mtime_ns != before[out / "a_restored.png"]
    assert "\nrestored: 3\n" in restore(run, source, out, "overwrite=true").stdout


def test_files_of_others_are_not_overwritten(run: Path, tmp_path: Path) -> None:
    draw_mask(tmp_path / "in/a.png")
    draw_mask(tmp_path / "in/b.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/b_overlay.png").write_text("mine")
    (tmp_path / "out/notes.txt").write_text("mine")
    done = restore(run, tmp_path / "in", tmp_path / "out")
    assert done.returncode == 2
    assert "in the way that this command did not write: 1\n  b_overlay.png" in done.stderr
    assert not (tmp_path / "out/restore.json").exists()
    assert not (tmp_path / "out/a_restored.png").exists()
    done = restore(run, tmp_path / "in", tmp_path / "out", "overwrite=true")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/notes.txt").read_text() == "mine"
    assert read(tmp_path / "out/b_overlay.png").shape == (32, 64, 3)


def test_ctrl_c_leaves_whole_files_and_the_same_command_goes_on(run: Path, tmp_path: Path) -> None:
    for number in range(150):
        draw_mask(tmp_path / f"in/{number:03}.png", seed=number)
    words = words_of(run, tmp_path / "in", tmp_path / "out", "batch_size=1")
    process = start_program([str(ROOT / "restore.py"), *words])
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("out/*_confidence.png"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "stopped as asked; the same command goes on" in errors
    assert not list(tmp_path.rglob("*.partial"))
    kinds = [len(list(tmp_path.glob(f"out/*_{kind}.png"))) for kind in ("restored", "overlay")]
    assert kinds[0] == kinds[1] < 150
    again = run_program([str(ROOT / "restore.py"), *words])
    assert again.returncode == 0, again.stderr
    assert f"restored: {150 - kinds[0]}, done before: {kinds[0]}\n" in again.stdout
    assert len(rows_of(tmp_path / "out")) == 150


def test_two_processes_and_several_parts_make_what_one_makes(run: Path, tmp_path: Path) -> None:
    for number in range(7):
        draw_mask(tmp_path / f"in/{number}.png", 40, 70, seed=number)
    (tmp_path / "in/bad.png").write_text("no picture")
    program = ROOT / "restore.py"
    assert restore(run, tmp_path / "in", tmp_path / "one").returncode == 2
    words = words_of(run, tmp_path / "in", tmp_path / "two")
    statuses, errors = run_ranks(words, 2, program=program)
    assert statuses == [2, 2], errors
    assert "not restored:\n" in errors[0]
    assert "restored" not in errors[1]
    for number in range(3):
        restore(run, tmp_path / "in", tmp_path / "parts", f"part={number}/3")
    for other in ("two", "parts"):
        assert rows_of(tmp_path / "one") == rows_of(tmp_path / other)
        for path in (tmp_path / "one").glob("*.png"):
            assert path.read_bytes() == (tmp_path / other / path.name).read_bytes()
    done = restore(run, tmp_path / "in", tmp_path / "two")
    assert "done before: 7, not restored: 1" in done.stdout


def test_a_cityscapes_tree_becomes_one_and_the_black_picture_is_left_out(
    run: Path, tmp_path: Path
) -> None:
    assert KNOWN_BLACK == cityscapes.KNOWN_BLACK
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
    segmap = generator_input(one_hot(torch.from_numpy(mask.copy())[None].long()), "argmax")
    with torch.no_grad():
        expected = to_uint8(network(segmap))[0].permute(1, 2, 0).numpy()
    assert np.abs(image.astype(int) - expected).max() <= 1


def test_mistakes_in_what_is_given_are_explained(run: Path, tmp_path: Path) -> None:
    draw_mask(tmp_path / "in/a.png")
    (tmp_path / "empty").mkdir()
    draw_mask(tmp_path / "mixed/a.png")
    draw_image(tmp_path / "mixed/b.png")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "mask_generator.pth").write_bytes((run / "mask_generator.pth").read_bytes())
    synthesis, unfinished = make_run(tmp_path / "s", "task=synthesis"), make_run(tmp_path / "u")
    (unfinished / "mask_generator.pth").unlink()
    few, wide = make_run(tmp_path / "few"), make_run(tmp_path / "wide")
    save_weights(MaskGenerator(19, 8, 4, SIZE).state_dict(), few / "mask_generator.pth")
    save_weights(MaskGenerator(NUM_CLASSES, 16, 4, SIZE).state_dict(), wide / "mask_generator.pth")
    source, out = tmp_path / "in", tmp_path / "out"
    for words, message in (
        (["part=4/4"], "part: write NUMBER/PARTS, counted from 0"),
        (["chekpoint=x", "fit=tiles"], "chekpoint: no such setting; did you mean checkpoint?"),
        ([f"checkpoint={bare}"], f"there is no {bare}/config.yaml"),
        ([f"checkpoint={run}/config.yaml"], "give a run folder, or the mask_generator.pth in it"),
        ([f"checkpoint={synthesis}"], "trains no mask generator"),
        ([f"checkpoint={unfinished}"], "the run is not finished"),
        ([f"checkpoint={few}"], "restores 19 classes, but the masks here have 34"),
        ([f"checkpoint={wide}"], "does not fit MaskGenerator"),
        ([f"input={tmp_path}/empty"], "there are no PNG files (*.png) in this folder"),
        ([f"input={tmp_path}/nowhere"], "there is no such file or folder"),
        ([f"images={tmp_path}/nowhere"], "there is no such file or folder"),
        ([f"input={tmp_path}/mixed"], "b.png holds colours, a.png ids"),
        ([f"output={source}"], "whose masks would get mixed with restored ones"),
        ([f"output={source}/out"], "whose masks would get mixed with restored ones"),
        (["augment=true"], "has no image generator; give one as generator=FILE"),
        (["augment=true", "generator=nowhere.pth"], "there is no image generator nowhere.pth"),
    ):
        with pytest.raises((ConfigError, UserError)) as mistake:
            restoration.restore(parse(RestoreConfig, [*words_of(run, source, out), *words]))
        assert message in str(mistake.value)
        assert not out.exists()
    done = restore(run / "mask_generator.pth", source, out, "fit=tiles")
    assert done.returncode == 2
    assert done.stderr.startswith("fit: ")
    assert restore(run / "mask_generator.pth", source, out).returncode == 0
