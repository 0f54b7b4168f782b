"""result.json of a finished run, for all who read it."""

import json
from pathlib import Path
from typing import Any

from maskrestore.settings import UserError, flatten


def read_result(run: Path) -> dict[str, Any]:
    """The result of a run; UserError if there is none, or none of ours.

    "metrics" holds numbers or None; its "iou" is None or holds one for each class.
    """
    path = run / "result.json"
    if not path.is_file():
        raise UserError(
            f"run={run} has no result.json: finish it by the same command that started it, which "
            "ends with an evaluation"
        )
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        metrics, protocol = dict(result["metrics"]), dict(result["protocol"])
        figures = [("num_images", result["num_images"]), *metrics.items()]
        figures += flatten(metrics.get("iou") or {}, "iou.")
        wrong = [
            key
            for key, value in figures
            if key != "iou" and not isinstance(value, int | float | None)
        ]
        if wrong:
            raise ValueError(f"no number: {', '.join(wrong)}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a result: {error!r}; delete it, and run the same command again"
        ) from error
    return {**result, "metrics": metrics, "protocol": protocol}
