"""Which of several trained networks restores."""

from pathlib import Path

import pytest
from masks import draw_image, draw_mask, make_run, probabilities_of, read, restore

from maskrestore.config.inference import RestoreConfig
from maskrestore.config.settings import parse
from maskrestore.inference.trained_run import read_run
from maskrestore.utils.errors import UserError

KEPT = "keep_annotated=false"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with a network that sees masks alone and one that sees pictures too."""
    make_run(tmp_path / "models/blind")
    make_run(tmp_path / "models/seeing", "condition=mask_image", "mask_generator.hidden=8")
    return tmp_path / "models"


def chosen(models: Path, tmp_path: Path, *words: str) -> str:
    """The folder of the run that restores."""
    given = (f"checkpoint={models}", f"input={tmp_path}", f"output={tmp_path}/out", *words)
    return read_run(parse(RestoreConfig, given)).run.name


@pytest.mark.slow
def test_of_two_networks_the_pictures_choose(models: Path, tmp_path: Path) -> None:
    given = draw_mask(tmp_path / "in/a.png")
    picture = draw_image(tmp_path / "pictures/a.png")
    for name, words, image in (
        ("blind", [], None),
        ("seeing", [f"images={tmp_path}/pictures"], picture),
    ):
        done = restore(models, tmp_path / "in", tmp_path / name, KEPT, *words)
        assert done.returncode == 0, done.stderr
        expected = probabilities_of(models / name, given, image).argmax(0).numpy()
        assert (read(tmp_path / name / "a_restored.png") == expected).all()


def test_what_trains_no_masks_or_is_not_finished_is_no_choice(models: Path, tmp_path: Path) -> None:
    make_run(models / "synthesis", "task=synthesis", "loss=ce_vgg_l1")
    (make_run(models / "unfinished") / "mask_generator.pth").unlink()
    assert chosen(models, tmp_path) == "blind"
    assert chosen(models, tmp_path, f"images={tmp_path}") == "seeing"


def test_none_or_several_are_refused_with_their_names(models: Path, tmp_path: Path) -> None:
    make_run(models / "another")
    with pytest.raises(
        UserError, match=r"several runs that restore masks alone: give .*another, .*blind"
    ):
        chosen(models, tmp_path)
    (models / "seeing/mask_generator.pth").unlink()
    with pytest.raises(UserError, match=r"no finished run that restores masks and their pictures"):
        chosen(models, tmp_path, f"images={tmp_path}")
    with pytest.raises(UserError, match="not of a run"):
        chosen(tmp_path, tmp_path)
