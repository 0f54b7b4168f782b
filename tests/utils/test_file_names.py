"""file_names.py: what a user types is found, whichever way a system joins letters and marks."""

from pathlib import Path

import pytest

from launch.slurm.restore_array import RestoreArrayConfig
from maskrestore.config.inference import RestoreConfig
from maskrestore.config.run import load_config
from maskrestore.config.settings import parse
from maskrestore.utils.file_names import as_it_lies

NFC, NFD = "m\u00fcnchen\u00e9", "mu\u0308nchene\u0301"


@pytest.mark.parametrize(("lies", "typed"), [(NFC, NFD), (NFD, NFC)])
def test_a_path_is_found_in_either_form_as_far_as_it_is_there(
    tmp_path: Path, lies: str, typed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / lies / "masks" / f"{lies}.png"
    there.parent.mkdir(parents=True)
    there.touch()
    assert as_it_lies(tmp_path / typed / "masks" / f"{typed}.png") == there
    assert as_it_lies(there) == there
    new = tmp_path / typed / "new" / typed
    assert as_it_lies(new) == tmp_path / lies / "new" / typed
    assert as_it_lies(there / typed) == there / typed  # in what is no folder
    monkeypatch.chdir(there.parent)
    assert as_it_lies(Path(f"{typed}.png")) == Path(f"{lies}.png")
    assert as_it_lies(Path(f"../../{typed}")) == Path(f"../../{lies}")
    assert as_it_lies(Path()) == Path()


def test_of_two_that_look_alike_the_one_that_was_typed_is_meant(tmp_path: Path) -> None:
    for name in (NFC, NFD):
        (tmp_path / name).mkdir()
        assert as_it_lies(tmp_path / name) == tmp_path / name


@pytest.mark.parametrize("schema", [RestoreConfig, RestoreArrayConfig])
def test_every_path_that_is_typed_is_found(tmp_path: Path, schema: type[RestoreConfig]) -> None:
    (tmp_path / NFC).mkdir()
    (tmp_path / NFC / "words.yaml").write_text("regions: 3\n")
    names = ("checkpoint", "input", "output", "images", "generator")
    typed = [f"{name}={tmp_path / NFD}/{name}" for name in names]
    config = parse(schema, [*typed, f"config={tmp_path / NFD}/words.yaml"])
    assert [getattr(config, name) for name in names] == [tmp_path / NFC / name for name in names]
    assert config.regions == 3
    url = "https://host//shards/"
    data = load_config([f"data.shards={url}", f"run={tmp_path / NFD}/run"])
    assert data.data.shards == Path(url)
    assert data.run == tmp_path / NFC / "run"
