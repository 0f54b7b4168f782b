"""Label sets without a class for what is not annotated: no mask is restored to it."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from masks import config_of, make_run, read, restore, rows_of
from PIL import Image

from maskrestore.config.inference import ExportConfig
from maskrestore.config.run import load_config
from maskrestore.data.degrade import degrade, mask_generator_input
from maskrestore.data.prior import small_map_prior
from maskrestore.data.segmap import colorize
from maskrestore.evaluation.baselines import restore_untrained
from maskrestore.inference import export
from maskrestore.models.build import load_mask_generator, make_mask_generator
from maskrestore.models.mask_generator import NEVER

FIELDS = ("data.labels=fields", "data.size=32x64", "loss=ce")
SMALLER = ("task=super_resolution", "degrade.factor=4")
IDS = np.array([0, 1, 2, 3, 10, 11, 20, 21], np.uint8)
"""Of fields; 255 is not annotated."""


def true_masks() -> torch.Tensor:
    """Numbers 1..8 in blocks, and a wide part of the first that is not annotated."""
    draw = torch.Generator().manual_seed(0)
    fine = torch.randint(1, 9, (2, 8, 16), generator=draw)
    fine = fine.repeat_interleave(4, 1).repeat_interleave(4, 2)
    fine[0, 8:, 20:50] = 0
    return fine


@pytest.mark.parametrize(("factor", "first"), [(2, 0), (4, 2), (8, 0), (8, 4), (16, 8)])
def test_a_small_map_that_is_all_annotated_says_what_it_always_said(
    factor: int, first: int
) -> None:
    small = torch.randint(1, 9, (2, 2, 4), generator=torch.Generator().manual_seed(factor))
    label_map = small.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
    annotated = torch.ones_like(label_map, dtype=torch.bool)[:, None]
    before = small_map_prior(label_map, 9, factor, first)
    for ours, theirs in zip(
        small_map_prior(label_map, 9, factor, first, annotated), before, strict=True
    ):
        assert torch.equal(ours, theirs)


def test_what_is_not_annotated_in_a_small_map_says_nothing() -> None:
    label_map = (
        torch.tensor([[3, 3, 0, 0, 5]]).repeat_interleave(4, 0).repeat_interleave(4, 1)[None]
    )
    segmap, near = small_map_prior(label_map, 9, 4, 0, (label_map != 0)[:, None])
    assert (segmap[:, 0] == 0).all()
    assert torch.equal(segmap.sum(1), torch.ones(1, 4, 20))
    # Kept are columns 0, 4, 8, 12, 16: up to 8 and from 12 on one neighbour knows, between none.
    assert segmap.argmax(1)[0, 0].tolist() == [3] * 11 + [5] * 9
    assert segmap.max() == segmap.amax(1).min() == 1
    assert (near[0, 0, 0] == 1).nonzero()[:, 0].tolist() == [0, 4, 16]
    nothing = torch.zeros_like(label_map)
    segmap, near = small_map_prior(nothing, 9, 4, 0, (nothing != 0)[:, None])
    assert torch.allclose(segmap, torch.tensor(1 / 9))
    assert near.max() == 0


@pytest.mark.parametrize("words", [(*SMALLER, "baseline=bilinear"), (*SMALLER,), ("task=densify",)])
def test_no_network_and_no_baseline_but_the_input_says_not_annotated(
    words: tuple[str, ...],
) -> None:
    loss = ("loss=none",) if len(words) > 2 else ()
    config, fine = load_config([*FIELDS, *words, *loss]), true_masks()
    label_map, valid = degrade(config, fine, fine)
    assert torch.equal(valid[:, 0], label_map != 0)
    image = torch.zeros(2, 3, 32, 64, dtype=torch.uint8)
    if loss:
        restored = restore_untrained(config, label_map, valid, image)
    else:
        logits = make_mask_generator(config)(*mask_generator_input(config, label_map, valid, image))
        assert (logits[:, 0] == NEVER).all()
        assert logits.softmax(1)[:, 0].max() == 0
        restored = logits.argmax(1)
    assert restored.min() > 0
    assert (restored == fine)[valid[:, 0] & (fine > 0)].double().mean() > 0.5


def test_random_walks_begin_at_annotated_pixels_alone() -> None:
    config = load_config([*FIELDS, *SMALLER, "loss=none", "baseline=random_walker"])
    label_map, valid = degrade(config, true_masks(), true_masks())
    image = colorize(true_masks(), config.data.labels)
    assert restore_untrained(config, label_map, valid, image).min() > 0


def test_cityscapes_has_a_class_for_it_and_is_as_it_was() -> None:
    fine = true_masks()
    for words in (SMALLER, ("task=densify",)):
        config = load_config(["data.size=32x64", "loss=ce", *words])
        label_map, valid = degrade(config, fine, fine)
        seen = mask_generator_input(config, label_map, valid, torch.empty(0))
        network = make_mask_generator(config)
        assert torch.equal(network(*seen), network.input_gain * seen[0])  # untrained: the start
    assert valid.all() == (config.task == "super_resolution")
    config = load_config(["data.size=32x64", "loss=ce", *SMALLER])
    label_map, valid = degrade(config, fine, fine)
    assert valid.all()
    seen = mask_generator_input(config, label_map, valid, torch.empty(0))
    assert seen[0].argmax(1)[0, 12, 30] == 0


@pytest.mark.slow
@pytest.mark.parametrize("words", [SMALLER, ("task=densify",)])
def test_restored_masks_are_of_classes_everywhere(words: tuple[str, ...], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", *FIELDS, *words)
    size = (8, 16) if words is SMALLER else (32, 64)
    given = np.random.default_rng(0).choice([255, 255, *IDS], size).astype(np.uint8)
    given[2:6] = 255
    (tmp_path / "in").mkdir()
    Image.fromarray(given).save(tmp_path / "in/a.png")
    Image.fromarray(np.full_like(given, 255)).save(tmp_path / "in/blank.png")
    done = restore(run, tmp_path / "in", tmp_path / "out", "encoding=ids")
    assert done.returncode == 0, done.stderr
    for name in ("a", "blank"):
        restored = read(tmp_path / f"out/{name}_restored.png")
        assert restored.shape == (32, 64)
        assert set(np.unique(restored)) <= set(IDS)
    rows = rows_of(tmp_path / "out")
    assert float(rows["a.png"]["annotated"]) == pytest.approx((given != 255).mean(), abs=1e-4)
    assert float(rows["blank.png"]["annotated"]) == 0


@pytest.mark.slow
def test_the_exported_network_never_says_it_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = make_run(tmp_path / "run", *FIELDS, *SMALLER), tmp_path / "out"
    monkeypatch.setattr(export, "_program", lambda network: (b"a program", 0.0))
    export.export_run(ExportConfig(run=run, output=out))
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    config = config_of(run).model_copy(update={"run": run})
    label_map, valid = degrade(config, true_masks(), true_masks())
    (logits,) = session.run(None, {"label_map": label_map.numpy()})
    network = load_mask_generator(config).eval()
    seen = mask_generator_input(config, label_map, valid, torch.empty(0))
    with torch.no_grad():
        expected = network(*seen)
    assert np.allclose(logits, expected, atol=1e-3)
    assert (logits[:, 0] == NEVER).all()
    assert "No mask is restored to 0: its logit is -10000." in (out / "README.md").read_text()
