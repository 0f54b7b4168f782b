"""result.json, read back."""

import json
from pathlib import Path
from typing import Any

import pytest

from maskrestore.runs.result import read_result
from maskrestore.utils.errors import UserError

RESULT: dict[str, Any] = {
    "num_images": 640,
    "metrics": {
        "accu": 0.5,
        "fid": None,
        "iou": {"road": 0.5, "car": None},
        "intervals": {"accu": [0.25, 0.75]},
        "by_degradation": {"drop": {"accu": 0.5, "miou19": None, "num_samples": 3}},
        "num_samples": 3,
    },
    "protocol": {"protocol": "strict"},
}


def test_a_result_is_read_with_all_that_is_nested_in_it(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(RESULT))
    assert read_result(tmp_path) == RESULT
    for name in ("iou", "intervals", "by_degradation"):  # of a run before, or that has none
        path.write_text(json.dumps(RESULT | {"metrics": RESULT["metrics"] | {name: None}}))
        assert read_result(tmp_path)["metrics"][name] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accu": [0.25, 0.75]}, "no number: accu"),
        ({"accu": "much"}, "no number: accu"),
        ({"iou": {"road": "much"}}, r"no number: iou\.road"),
        ({"iou": [0.5]}, "is not a result"),
        ({"intervals": {"accu": 0.5}}, r"no number: intervals\.accu"),
        ({"intervals": {"accu": [0.5]}}, r"no number: intervals\.accu"),
        ({"intervals": {"accu": [0.25, None]}}, r"no number: intervals\.accu"),
        ({"intervals": [0.25, 0.75]}, "is not a result"),
        ({"by_degradation": {"drop": {"accu": [1]}}}, r"no number: by_degradation\.drop\.accu"),
        ({"by_degradation": 3}, "is not a result"),
        ({"by_degradation": {"drop": 3}}, "is not a result"),
    ],
)
def test_a_result_that_is_none_of_ours_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    content = RESULT | {"metrics": RESULT["metrics"] | change}
    (tmp_path / "result.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read_result(tmp_path)
