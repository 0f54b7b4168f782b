"""Files of runs that were written before a setting existed are read as what those runs did."""

from pathlib import Path

import pytest

from maskrestore.runs.resume_check import read_run_config
from maskrestore.utils.errors import ConfigError


def read(folder: Path, text: str) -> tuple[str, str, int]:
    path = folder / "config.yaml"
    path.write_text(text)
    config = read_run_config(path)
    network = config.mask_generator
    return network.start, network.image_features, network.width


def test_a_run_of_before_started_at_its_input_and_saw_colours_alone(tmp_path: Path) -> None:
    assert read(tmp_path, "task: densify\n") == ("input", "lite0", 16)
    width = "mask_generator: {width: 8}\n"
    assert read(tmp_path, width) == ("input", "lite0", 8)
    assert read(tmp_path, f"condition: mask_image\n{width}") == ("input", "none", 8)


def test_a_run_of_today_is_what_its_file_says(tmp_path: Path) -> None:
    text = "condition: mask_image\nmask_generator: {start: prior, image_features: lite0}\n"
    assert read(tmp_path, text) == ("prior", "lite0", 16)


@pytest.mark.parametrize("text", ["mask_generator: 3\n", "[1]\n", "mask_generator: {strat: 1}\n"])
def test_a_file_of_another_form_is_refused_by_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        read(tmp_path, text)
