"""Label sets: those that are shipped, a user's own, and what is wrong with one."""

import json
from pathlib import Path

import numpy as np
import pytest

from maskrestore.config.labels import (
    FOLDER,
    UNANNOTATED,
    UNKNOWN,
    LabelSet,
    dumped,
    load_labels,
    read_labels,
)
from maskrestore.config.run import load_config
from maskrestore.config.settings import to_yaml
from maskrestore.data.label_tables import colors_of, ids_of, numbers_of
from maskrestore.utils.errors import ConfigError

SHIPPED = {
    "cityscapes": (34, 19, "0..33"),
    "cityscapes_19": (20, 19, "0..18 or 255"),
    "bdd100k": (20, 19, "0..18 or 255"),
    "camvid": (12, 11, "0..11"),
    "pascal_voc": (22, 21, "0..20 or 255"),
    "ade20k": (151, 150, "0..150"),
    "coco_stuff": (183, 171, "0..181 or 255"),
    "mapillary_vistas": (66, 65, "0..65"),
    "fields": (9, 8, "0..3, 10..11, 20..21 or 255"),
}


def made(seed: int) -> LabelSet:
    """A random one: 2 to 200 classes, gaps between ids, several voids or none, merged values."""
    draw = np.random.default_rng(seed)
    num = int(draw.integers(2, 201))
    values = draw.permutation(int(draw.choice([256, 2000])))[: num + 6].tolist()
    colors = np.unique(draw.integers(2**24, size=2 * num))[:num]
    classes = [
        {
            "id": values[number],
            "name": f"c{number}",
            "color": [int(code) >> 16, int(code) >> 8 & 255, int(code) & 255],
            "evaluated": bool(number == 0 or draw.random() < 0.8),
            "instances": bool(draw.random() < 0.3),
        }
        for number, code in enumerate(colors)
    ]
    classes[0]["also"] = values[num : num + 2]
    void = values[num + 2 : num + 2 + int(draw.integers(0, 4))]
    return LabelSet.model_validate({"name": "made", "not_annotated": void, "classes": classes})


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_shipped(name: str) -> None:
    labels = load_labels(name)
    assert (labels.num_classes, len(labels.evaluated), labels.values) == SHIPPED[name]
    assert labels.slug == name
    assert dumped(labels) == name
    assert labels.page
    assert labels.bits == 8


def test_all_that_is_shipped_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(SHIPPED)


@pytest.mark.parametrize("seed", range(20))
def test_values_become_numbers_and_come_back(seed: int) -> None:
    labels = made(seed)
    ids, numbers, colors = ids_of(labels), numbers_of(labels), colors_of(labels)
    assert numbers[ids].tolist() == list(range(labels.num_classes))
    assert not labels.has_unlabeled_class
    assert labels.num_classes == len(labels.classes) + 1
    assert UNANNOTATED not in labels.evaluated
    assert {numbers[value] for value in labels.not_annotated} <= {UNANNOTATED}
    assert [numbers[value] for value in labels.classes[0].also] == [1, 1]
    known = sum(1 + len(entry.also) for entry in labels.by_number)
    assert (numbers != UNKNOWN).sum() == known
    assert ids.dtype == (np.uint8 if labels.bits == 8 else np.uint16)
    assert len(np.unique(colors, axis=0)) == labels.num_classes
    again = read_labels(json.loads(json.dumps(dumped(labels))))
    assert again == labels
    assert again.sha256 == labels.sha256


def test_a_file_of_ones_own_is_whole_in_the_run_folder(tmp_path: Path) -> None:
    text = (FOLDER / "fields.yaml").read_text().replace("name: Fields", "name: Acres")
    (tmp_path / "own.yaml").write_text(text)
    config = load_config([f"data.labels={tmp_path / 'own.yaml'}"])
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    (tmp_path / "own.yaml").unlink()
    load_labels.cache_clear()
    again = load_config([f"config={tmp_path / 'config.yaml'}"])
    assert again.data.labels == config.data.labels
    assert again.data.labels.num_classes == 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("id: 1,", "id: 0,"), "the value 0 stands for two things"),
        (("id: 1,", "id: 255,"), "the value 255 stands for two things"),
        (("name: wheat", "name: soil"), "the name soil stands for two things"),
        (("[220, 200, 90]", "[120, 90, 60]"), "soil and wheat have one colour"),
        (("[220, 200, 90]", "[220, 200, 900]"), "classes.1.color.2: "),
        (("[220, 200, 90]", "[220, 200]"), "classes.1.color.2: "),
        (("id: 1,", "id: wheat,"), "classes.1.id: "),
        (("id: 1, name", "id: 1, nme"), "classes.1.nme: "),
        (("[tree, house]", "[tree, hut]"), "groups: there is no class hut"),
        (("name: Fields\n", ""), "name: Field required"),
        (("classes:", "things:"), "classes: Field required"),
    ],
)
def test_mistakes_are_told_by_their_place(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text((FOLDER / "fields.yaml").read_text().replace(*change))
    with pytest.raises(ConfigError) as told:
        load_config([f"data.labels={path}"])
    assert f"{path} is no label set:" in str(told.value)
    assert message in str(told.value)


def test_a_name_that_is_none_lists_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no file .*; there are: ade20k, bdd100k, camvid"):
        load_config(["data.labels=ade"])


def test_one_class_alone_and_one_too_many() -> None:
    def labels(num: int) -> LabelSet:
        classes = [{"id": n, "name": f"c{n}", "color": [n, 1, 2]} for n in range(num)]
        return LabelSet.model_validate({"name": "x", "not_annotated": 300, "classes": classes})

    assert labels(1).num_classes == 2
    with pytest.raises(ValueError, match="251 classes, and 250 are the most"):
        labels(251)
