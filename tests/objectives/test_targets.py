"""What the cross entropy compares with, when it is not the true masks."""

from pathlib import Path

import pytest
import torch
from label_sets import one_hot
from masks import make_run
from torch import Tensor

from maskrestore.config.run import RunConfig, load_config
from maskrestore.data.degrade import degrade, mask_generator_input
from maskrestore.data.loader import Batch
from maskrestore.data.segmap import to_uint8
from maskrestore.evaluation.baselines import fill
from maskrestore.models.build import load_mask_generator
from maskrestore.objectives.restoration import Restoration
from maskrestore.objectives.targets import IGNORED, Teacher, target_of
from maskrestore.runs.resume_check import read_run_config
from maskrestore.utils.errors import ConfigError, UserError

TINY = ("data.size=32x64", "loss=ce", "mask_generator.width=2", "mask_generator.hidden=4")


def batch_of(count: int = 2) -> Batch:
    draw = torch.Generator().manual_seed(0)
    fine = torch.randint(7, 34, (count, 4, 8), generator=draw)
    fine = fine.repeat_interleave(8, 1).repeat_interleave(8, 2)
    coarse = fine.clone()
    coarse[:, :, 24:] = 0
    image = torch.randint(0, 256, (count, 3, 32, 64), generator=draw, dtype=torch.uint8)
    keys = tuple("abcdefgh"[:count])
    return Batch(keys, image, fine, coarse, fine, tuple(range(count)), ("task",) * count)


def test_the_targets_are_what_their_names_say(tmp_path: Path) -> None:
    batch = batch_of()
    annotated = batch.coarse != 0

    def target(*words: str, teacher: Teacher | None = None) -> Tensor:
        return target_of(load_config([*TINY, *words]), batch, teacher)

    assert torch.equal(target(), batch.fine)
    given = target("target=given")
    assert torch.equal(given[annotated], batch.coarse[annotated])
    assert (given[~annotated] == IGNORED).all()
    assert torch.equal(target("target=nearest"), fill(batch.coarse, annotated[:, None]))

    run = make_run(tmp_path / "run", "condition=mask_image")
    words = ("target=restored", f"teacher={run}")
    restored = target(*words, teacher=Teacher(run, (32, 64)))
    assert torch.equal(restored[annotated], batch.coarse[annotated])
    config = read_run_config(run / "config.yaml").model_copy(update={"run": run})
    shown = mask_generator_input(config, *degrade(config, batch.fine, batch.coarse), batch.image)
    with torch.no_grad():
        expected = load_mask_generator(config).eval()(*shown).argmax(1)
    assert torch.equal(restored[~annotated], expected[~annotated])
    assert not torch.equal(restored, batch.fine)


def test_what_does_not_count_costs_nothing_however_the_batch_is_split() -> None:
    objective = Restoration(load_config([*TINY, "target=given"]), None, None)
    batch = batch_of(4)
    batch.coarse[0] = 0  # nobody annotated anything
    [phase] = objective.phases()
    whole = phase.losses(batch)["ce"]
    parts = [phase.losses(part)["ce"] for part in batch.split(4)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)
    assert parts[0] == 0


def test_some_images_are_seen_as_the_image_generator_draws_them() -> None:
    class Painter(torch.nn.Module):
        def forward(self, segmap: Tensor, *_: object) -> Tensor:
            return segmap[:, 7:10] * 2 - 1

    config = load_config([*TINY, "condition=image", "synthesized_images=0.5"])
    batch = batch_of(8)
    painter = Painter()
    seen = Restoration(config, painter, None).seen_image(batch)
    drawn = to_uint8(painter(one_hot(batch.fine)))
    is_drawn = [torch.equal(one, two) for one, two in zip(seen, drawn, strict=True)]
    is_real = [torch.equal(one, two) for one, two in zip(seen, batch.image, strict=True)]
    assert is_real == [not one for one in is_drawn]
    assert 0 < sum(is_drawn) < 8
    again = Restoration(config, painter, None).seen_image(batch)
    assert torch.equal(again, seen)
    alone = config.model_copy(update={"synthesized_images": 0.0})
    assert Restoration(alone, painter, None).seen_image(batch) is batch.image


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["target=restored"], "target=restored needs teacher=RUN"),
        (["task=super_resolution", "target=given"], "target=given is for task=densify"),
        (["synthesized_images=0.5"], "condition=mask_image or image"),
    ],
)
def test_settings_that_do_not_fit(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config([*TINY, *words])


def test_a_teacher_that_restores_no_masks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no .*config\.yaml"):
        Teacher(tmp_path, (32, 64))
    (tmp_path / "config.yaml").write_text("task: synthesis\n")
    with pytest.raises(UserError, match="restores no masks"):
        Teacher(tmp_path, (32, 64))
    assert RunConfig().teacher is None
    pieces = make_run(tmp_path / "pieces", "data.crop=32x32")
    with pytest.raises(UserError, match="restores masks of 32x32, and this run trains on 32x64"):
        Teacher(pieces, (32, 64))
    assert Teacher(pieces, (32, 32)).config.data.crop == "32x32"
