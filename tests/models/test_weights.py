import os
import resource
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from label_sets import numbered
from torch import Tensor

from maskrestore.models.generators.files import read_generator
from maskrestore.models.mask_generator import MaskGenerator
from maskrestore.models.spade import SPADEGenerator
from maskrestore.models.weights import (
    load_into,
    load_weights,
    save_spade_generator,
    save_weights,
)
from maskrestore.utils.errors import UserError

SIZE = (32, 64)
CLASSES = 4


@pytest.fixture
def generator() -> SPADEGenerator:
    torch.manual_seed(0)
    generator = SPADEGenerator(CLASSES + 2, 2, 5, SIZE)
    with torch.no_grad():
        generator(torch.rand(2, CLASSES + 2, *SIZE))  # running statistics of its own
    return generator.eval()


def assert_same(generator: SPADEGenerator, path: Path) -> None:
    loaded = SPADEGenerator(CLASSES + 2, 2, 5, SIZE)
    load_into(loaded, load_weights(path), path)
    segmap = torch.rand(2, CLASSES + 2, *SIZE)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(segmap), generator(segmap))
        frozen = read_generator(path, numbered(CLASSES)).make(SIZE, False, False)
        torch.testing.assert_close(frozen(segmap), generator(segmap), atol=1e-5, rtol=0)


def test_round_trip(generator: SPADEGenerator, tmp_path: Path) -> None:
    path = tmp_path / "generator.pth"
    save_spade_generator(generator, path)
    assert_same(generator, path)
    assert [file.name for file in tmp_path.iterdir()] == ["generator.pth"]
    state = torch.load(path, weights_only=True)
    assert type(state) is dict
    assert len(state) == 234


@pytest.mark.parametrize("zipped", [False, True])
def test_reads_the_form_of_the_official_file(
    generator: SPADEGenerator, tmp_path: Path, zipped: bool
) -> None:
    state = generator.state_dict()  # an OrderedDict with metadata, as the official code saved it
    for name in [name for name in state if name.endswith("num_batches_tracked")]:
        del state[name]
    assert isinstance(state, OrderedDict)
    path = tmp_path / "latest_net_G.pth"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    assert_same(generator, path)


def test_saves_float32_whatever_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    save_weights({"half": torch.ones(2, dtype=torch.bfloat16), "count": torch.tensor(3)}, path)
    state = load_weights(path)
    assert state["half"].dtype == torch.float32
    assert state["count"].dtype == torch.int64


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", [False, True])
def test_never_runs_code(tmp_path: Path, zipped: bool) -> None:
    path, marker = tmp_path / "weights.pth", tmp_path / "code ran"
    malicious = {"fc.weight": Malicious(marker)}
    torch.save(malicious, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"weights\.pth.*never run"):
        load_weights(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the file does what it was made for
    assert marker.exists()


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_cut_file_is_a_clear_error(
    generator: SPADEGenerator, tmp_path: Path, share: float, zipped: bool
) -> None:
    path = tmp_path / "cut.pth"
    torch.save(generator.state_dict(), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"cut\.pth: cannot be read"):
        read_generator(path, numbered(CLASSES))


@pytest.mark.parametrize(
    "data", [b"hello world\n", b"\x89PNG\r\n\x1a\n" + bytes(99), b"PK\x03\x04" + bytes(99)]
)
def test_a_foreign_file_is_a_clear_error(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "foreign.pth"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"foreign\.pth"):
        load_weights(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "list"),
        (torch.ones(1), "Tensor"),
        ({}, "dict"),
        ({"model": {"fc.weight": torch.ones(1)}}, "model"),
        ({1: torch.ones(1)}, "1"),
    ],
)
def test_only_named_tensors_are_weights(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(UserError, match=message):
        load_weights(path)


def test_a_missing_generator_says_how_to_train_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"generator\.path=.*train\.py task=synthesis"):
        read_generator(tmp_path / "no.pth", numbered(CLASSES))


def test_another_number_of_classes_names_both_numbers(
    generator: SPADEGenerator, tmp_path: Path
) -> None:
    path = tmp_path / "generator.pth"
    save_spade_generator(generator, path)
    with pytest.raises(
        UserError, match=r"takes 6 input channels, but the 34 classes of 34 classes need 35"
    ):
        read_generator(path, numbered(34))


def test_a_mask_generator_is_no_image_generator(tmp_path: Path) -> None:
    path = tmp_path / "mask_generator.pth"
    save_weights(MaskGenerator(CLASSES + 1, 2, 5, SIZE).state_dict(), path)
    with pytest.raises(UserError, match="is a mask generator of ours"):
        read_generator(path, numbered(CLASSES))


def test_weights_of_another_network(tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    save_weights({"conv1.weight": torch.ones(64, 3, 7, 7), "fc.weight": torch.ones(9, 9)}, path)
    with pytest.raises(UserError, match=r"is no image generator of a kind .*conv1\.weight"):
        read_generator(path, numbered(CLASSES))


def test_all_differences_are_listed_at_once(generator: SPADEGenerator) -> None:
    state: dict[str, Tensor] = dict(generator.state_dict())
    before = {name: value.clone() for name, value in state.items()}
    del state["conv_img.bias"], state["up_0.conv_s.weight_u"]
    state["up_4.conv_0.bias"] = torch.ones(1)
    state["fc.weight"] = torch.ones(32, 5, 3, 3)
    with pytest.raises(UserError) as caught:
        load_into(generator, state, Path("some.pth"))
    message = str(caught.value)
    assert message.startswith("some.pth: does not fit SPADEGenerator")
    assert "2 missing (up_0.conv_s.weight_u, conv_img.bias)" in message
    assert "1 unknown (up_4.conv_0.bias)" in message
    assert "fc.weight is [32, 5, 3, 3] in the file, [32, 6, 3, 3] here" in message
    after = generator.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_full_disk_leaves_the_old_file_whole(generator: SPADEGenerator, tmp_path: Path) -> None:
    path = tmp_path / "generator.pth"
    save_weights({"old": torch.ones(1)}, path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"generator\.pth: cannot be written"):
            save_spade_generator(generator, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(load_weights(path)) == ["old"]
    assert [file.name for file in tmp_path.iterdir()] == ["generator.pth"]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file or directory"):
        save_weights({"x": torch.ones(1)}, tmp_path / "no" / "weights.pth")
