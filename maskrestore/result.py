"""result.json of a finished run, for all who read it."""

import json
from pathlib import Path
from typing import Any

from maskrestore.settings import UserError, flatten

NESTED = ("iou", "intervals", "by_degradation")
"""What of "metrics" is no single number."""


def read_result(run: Path) -> dict[str, Any]:
    """The result of a run; UserError if there is none, or none of ours.

    "metrics" holds numbers or None. Nested in it, or None: "iou", one for each class;
    "by_degradation", some for each kind of damage; "intervals", a low and a high end for each
    figure.
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
        figures = {"num_images": result["num_images"], **metrics}
        nested = {name: dict(figures.pop(name, None) or {}) for name in NESTED}
        kinds = {kind: dict(some) for kind, some in nested["by_degradation"].items()}
        figures |= flatten(nested | {"by_degradation": kinds})
        wrong = [key for key, value in figures.items() if not _is_figure(key, value)]
        if wrong:
            raise ValueError(f"no number: {', '.join(wrong)}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a result: {error!r}; delete it, and run the same command again"
        ) from error
    return {**result, "metrics": metrics, "protocol": protocol}


def _is_figure(key: str, value: Any) -> bool:
    if key.startswith("intervals."):
        ends = value if isinstance(value, list) else []
        return len(ends) == 2 and all(isinstance(end, int | float) for end in ends)
    return isinstance(value, int | float | None)
