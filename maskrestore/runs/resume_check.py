"""What may not change between the start of a run and its resume: settings and code."""

import ast
import hashlib
from pathlib import Path
from typing import Any

from maskrestore.config.execution import TelemetryConfig
from maskrestore.config.run import RunConfig
from maskrestore.config.settings import flatten, read_yaml, validate
from maskrestore.utils.errors import ConfigError


def read_run_config(path: Path) -> RunConfig:
    """The settings that a run folder was started with; ConfigError names the file."""
    try:
        return validate(RunConfig, _as_it_was(read_yaml(path)))
    except ConfigError as error:
        text = str(error) if str(path) in str(error) else f"{path}:\n{error}"
        raise ConfigError(
            f"{text}\nit was written by another version, or changed by hand"
        ) from None


def _as_it_was(values: Any) -> Any:
    """The settings of a file with those that it does not name, being of before there was a choice:
    training started at the input, and of the image only the colours were seen."""
    if not isinstance(values, dict) or not isinstance(values.get("mask_generator", {}), dict):
        return values
    before = {"start": "input"}
    if values.get("condition") == "mask_image":
        before["image_features"] = "none"
    return values | {"mask_generator": before | values.get("mask_generator", {})}


HARMLESS = (
    "run",
    "data.shards",
    "data.root",
    "data.url",
    "data.bad_shards",
    "data.threads",
    "data.prefetch_batches",
    "generator.path",
    "teacher",
    "perceptual.weights",
    "training.accumulation",
    "training.save_in_background",
    "training.log_images",
    "training.checkpoint_images",
    "training.evaluate_images",
    "training.keep_checkpoints",
    "evaluation.batch_size",
    "evaluation.inception_weights",
    "evaluation.num_pictures",
    "distributed.device",
    "distributed.num_processes",
    "distributed.engine",
    "distributed.zero_stage",
    "distributed.offload_optimizer",
    "distributed.deterministic",
    "distributed.activation_checkpointing",
    "distributed.cpu_threads",
    "health.max_rollbacks",
    "health.watchdog_seconds",
    *(f"telemetry.{name}" for name in TelemetryConfig.model_fields),
    "accept_changed_code",
)
"""Settings that say where things are, or how often and on what a run works, not what it computes.
Files are compared by content (run_folder.py), so that a moved data set does not stop a resume."""


def differing_keys(old: RunConfig, new: RunConfig) -> list[str]:
    """Dotted keys whose change would change the result, as `key: old -> new`."""
    before, after = (dict(flatten(config.model_dump(mode="json"))) for config in (old, new))
    # Batch norm and spectral norm see the parts of a batch one by one.
    harmful = {"training.accumulation"} if new.trains_generator else set()
    return [
        f"{key}: {before.get(key)} -> {value}"
        for key, value in after.items()
        if (key not in HARMLESS or key in harmful) and before.get(key) != value
    ]


NO_ARITHMETIC = (
    "config",
    "data/fetch",
    "evaluation/pictures",
    "inference",
    "monitoring",
    "runs",
    "training/recovery",
    "utils",
)
"""Folders and modules of maskrestore whose code does not enter the figures of a healthy run;
settings are compared apart."""


def code_sha256() -> dict[str, str]:
    """Module of maskrestore -> hex sha256 of its code, without comments and docstrings.

    Those whose change could change a result; names relative to the package, as models/spade.
    """
    root = Path(__file__).resolve().parents[1]
    return {
        name: hashlib.sha256(_bare_code(path).encode()).hexdigest()
        for path in sorted(root.rglob("*.py"))
        if not f"{(name := path.relative_to(root).with_suffix('').as_posix())}/".startswith(
            NO_ARITHMETIC
        )
    }


def _bare_code(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    _strip(tree)
    return ast.dump(tree)


def _strip(node: ast.AST) -> None:
    """Take the docstrings out of the statements in `node`. (ast.walk looks at expressions too.)"""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        statements = getattr(node, name, None)
        if isinstance(statements, list):
            kept = [part for part in statements if name != "body" or not _is_text(part)]
            setattr(node, name, kept)
            for part in kept:
                _strip(part)


def _is_text(node: ast.AST) -> bool:
    """Whether a statement is a string that nobody uses: a docstring."""
    return isinstance(node, ast.Expr) and isinstance(getattr(node.value, "value", None), str)
