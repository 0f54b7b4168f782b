"""evaluate.py and evaluate_run: a finished run's figures once more."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forked import ROOT, run_program
from label_sets import NUM_CLASSES
from tiny_evaluation import config_of
from tiny_runs import run_ranks

from evaluate import print_figures
from maskrestore.config.run import RunConfig
from maskrestore.config.settings import parse, to_yaml
from maskrestore.evaluation import real_features
from maskrestore.evaluation.finished_run import evaluate_run
from maskrestore.models.build import make_mask_generator
from maskrestore.models.lite0 import Lite0Embedding
from maskrestore.models.spade import SPADEGenerator
from maskrestore.models.weights import load_weights, save_spade_generator, save_weights
from maskrestore.runs.figures import SHARES
from maskrestore.runs.result import write_result
from maskrestore.runs.run_folder import inputs
from maskrestore.utils.errors import UserError
from shards.write import WriteConfig, write_shards

PROGRAM = ROOT / "evaluate.py"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    words = ["size=32x64", "num_train=1", "num_val=3", "workers=1", f"out={out}"]
    write_shards(parse(WriteConfig, words))
    return out


@pytest.fixture
def finished_run(tmp_path: Path, shards: Path) -> RunConfig:
    """A run folder as training leaves it, with untrained networks."""
    run = tmp_path / "run"
    run.mkdir()
    save_spade_generator(SPADEGenerator(NUM_CLASSES + 2, 1, 4, (32, 64)), tmp_path / "g.pth")
    config = config_of(
        *("task=densify", "loss=ce", f"run={run}", f"data.shards={shards}"),
        *("mask_generator.width=8", "mask_generator.hidden=4", f"generator.path={tmp_path}/g.pth"),
        *("evaluation.batch_size=2", "distributed.device=cpu"),
    )
    (run / "config.yaml").write_text(to_yaml(config))
    (run / "result.json").write_text('{"num_images": 640, "metrics": {}, "protocol": {}}')
    torch.manual_seed(0)
    save_weights(make_mask_generator(config).state_dict(), run / "mask_generator.pth")
    return config


def kept_features(config: RunConfig) -> list[Path]:
    return sorted((config.data.shards / "features").glob("*"))


@pytest.fixture
def counted(finished_run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images that the feature network sees, call by call, where nobody has evaluated before."""
    for path in kept_features(finished_run):
        path.unlink()
    seen: list[int] = []
    plain = Lite0Embedding.forward

    def forward(self: Lite0Embedding, image: torch.Tensor) -> torch.Tensor:
        seen.append(len(image))
        return plain(self, image)

    monkeypatch.setattr(Lite0Embedding, "forward", forward)
    return seen


def evaluate_program(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM), *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_run_is_evaluated_again_and_its_result_says_how(finished_run: RunConfig) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    metrics = evaluate_run(finished_run)
    assert not torch.backends.cudnn.allow_tf32  # fp32 is that on a GPU too
    assert not torch.backends.cuda.matmul.allow_tf32
    result = json.loads((finished_run.run / "result.json").read_text())
    assert result["metrics"] == metrics
    assert metrics["num_samples"] == 3
    assert 0 < metrics["accu"] < 1
    assert metrics["fd_lite0"] > 0
    assert (result["task"], result["loss"], result["num_images"]) == ("densify", "ce", 640)
    assert result["protocol"]["edges"] == "argmax"
    assert result["protocol"]["source"] == "streetscenes"
    assert result["protocol"]["features"] == "lite0"
    assert (result["protocol"]["height"], result["protocol"]["width"]) == (32, 64)
    generator = finished_run.generator.path
    assert generator is not None
    assert result["generator_sha256"] == hashlib.sha256(generator.read_bytes()).hexdigest()
    assert result["versions"]["torch"] == torch.__version__
    assert len(list((finished_run.run / "pictures").glob("*_restored.png"))) == 3
    samples = json.loads((finished_run.run / "samples.json").read_text())
    assert [sample["key"] for sample in samples] == sorted(sample["key"] for sample in samples)
    assert sum(sample["accu"] for sample in samples) / 3 == pytest.approx(metrics["accu"])
    resampled = json.loads((finished_run.run / "resamples.json").read_text())["figures"]
    assert {name: len(values) for name, values in resampled.items()} == dict.fromkeys(SHARES, 1000)
    low, high = metrics["intervals"]["accu"]
    assert sorted(resampled["accu"])[25] == pytest.approx(low, abs=1e-3)
    shares = [sample["accu"] for sample in samples]
    assert min(shares) <= low <= metrics["accu"] <= high <= max(shares)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("paper", "accu, miou19", "task", "mask", "softmax", None)),
        ({"protocol": "strict"}, ("strict", "accu19, miou19", "task", "mask", "softmax", None)),
        ({"degradation": "drop"}, ("paper", "accu, miou19", "drop", "mask", "softmax", None)),
        # Some of a mixture are smaller maps.
        (
            {"degradation": "mixture"},
            ("paper", "accu, miou19", "mixture", "mask", "softmax", "corner"),
        ),
        ({"loss": "none"}, ("paper", "accu, miou19", "task", None, None, None)),
        ({"task": "synthesis"}, ("paper", None, "task", None, None, None)),
    ],
)
def test_a_result_says_by_which_protocol_it_is_to_be_judged(
    finished_run: RunConfig, changes: dict[str, str], expected: tuple[str | None, ...]
) -> None:
    config = finished_run.model_copy(update=changes)
    write_result(config, {"num_samples": 3}, 0, finished_run.run, {})
    protocol = json.loads((finished_run.run / "result.json").read_text())["protocol"]
    names = ("protocol", "headline", "degradation", "condition", "relaxation", "sampling")
    assert tuple(protocol[name] for name in names) == expected


def test_figures_are_printed_with_their_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    kinds = {"drop": {"accu": 0.5, "accu19": 0.25, "miou19": None, "num_samples": 2}}
    figures = {"accu": 0.8421, "ece": None, "iou": {"road": 0.5}, "fid": 63.21, "num_samples": 3}
    nested = {"intervals": {"accu": [0.8, 0.9]}, "by_degradation": kinds}
    print_figures(figures | nested)
    print_figures(figures | dict.fromkeys(nested) | {"accu": None})
    assert capsys.readouterr().out.splitlines() == [
        "accu                84.2 %   95 %: 80.0 % to 90.0 %",
        "fid                  63.21",
        "num_samples              3",
        "drop                     2   accu 50.0 %, accu19 25.0 %, miou19 -",
        "fid                  63.21",
        "num_samples              3",
    ]


def test_a_val_split_that_was_not_wholly_evaluated_gives_no_result(
    finished_run: RunConfig,
) -> None:
    before = (finished_run.run / "result.json").read_bytes()
    with pytest.raises(RuntimeError, match="2 samples evaluated of 3"):
        write_result(finished_run, {"num_samples": 2}, 0, finished_run.run, {})
    assert (finished_run.run / "result.json").read_bytes() == before


def test_the_second_evaluation_looks_at_no_real_image(
    finished_run: RunConfig, counted: list[int]
) -> None:
    first = evaluate_run(finished_run, write=False)
    assert sum(counted) == 2 * 3
    (path,) = kept_features(finished_run)
    counted.clear()
    assert evaluate_run(finished_run, write=False) == first
    assert sum(counted) == 3
    assert kept_features(finished_run) == [path]


@pytest.mark.slow
def test_real_images_are_seen_again_when_their_features_could_be_others(
    finished_run: RunConfig,
    counted: list[int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def num_seen() -> int:
        counted.clear()
        evaluate_run(finished_run, write=False)
        return sum(counted)

    assert (num_seen(), num_seen()) == (6, 3)
    manifest = finished_run.data.shards / "manifest.json"
    shards = json.loads(manifest.read_text())
    (shard,) = shards["splits"]["val"]["shards"]
    plain = real_features._File(finished_run, "cpu").path
    with monkeypatch.context() as patch:
        code = tmp_path / "metrics.py"
        code.write_text("changed")
        patch.setattr(real_features, "CODE", [code])
        assert (num_seen(), num_seen()) == (6, 3)
    (finished_run.run / "inputs.json").write_text(json.dumps({"left_out_shards": [shard["name"]]}))
    assert real_features._File(finished_run, "cpu").path != plain
    (finished_run.run / "inputs.json").unlink()
    assert real_features._File(finished_run, "cuda").path != plain
    assert real_features._File(finished_run, "cpu").path == plain


@pytest.mark.slow
def test_kept_features_that_are_damaged_or_cannot_be_written_cost_only_time(
    finished_run: RunConfig, counted: list[int]
) -> None:
    first = evaluate_run(finished_run, write=False)
    (path,) = kept_features(finished_run)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    few = {"real": torch.zeros(2, 1280), "sha256": torch.zeros(32, dtype=torch.uint8)}
    for spoil in (
        lambda: path.write_bytes(whole[:1000]),
        lambda: path.write_bytes(flipped),
        lambda: torch.save(few, path),
    ):
        spoil()
        counted.clear()
        assert evaluate_run(finished_run, write=False) == first
        assert sum(counted) == 6
    path.unlink()
    path.parent.rmdir()
    path.parent.write_text("in the way")
    assert evaluate_run(finished_run, write=False) == first
    path.parent.unlink()


@pytest.mark.slow
def test_the_program_keeps_the_result_where_settings_differ(finished_run: RunConfig) -> None:
    before = (finished_run.run / "result.json").read_bytes()
    done = evaluate_program(f"run={finished_run.run}", "generator.edges=instance")
    assert done.returncode == 0, done.stderr
    assert "accu " in done.stdout
    assert "generator.edges: argmax -> instance" in done.stdout
    assert (finished_run.run / "result.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "run: must be given, as run=runs/NAME"),
        (["run=nowhere"], "run=nowhere is not the folder of a run"),
    ],
)
def test_the_program_explains_the_users_mistakes(words: list[str], message: str) -> None:
    done = evaluate_program(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unfinished_run_is_named(finished_run: RunConfig) -> None:
    (finished_run.run / "result.json").unlink()
    with pytest.raises(UserError, match=r"no result\.json: finish it"):
        evaluate_run(finished_run)


def test_a_damaged_result_is_named(finished_run: RunConfig) -> None:
    for content in ("{", "[]", '{"num_images": "many"}'):
        (finished_run.run / "result.json").write_text(content)
        with pytest.raises(UserError, match=r"result\.json is not a result"):
            evaluate_run(finished_run)


@pytest.mark.slow
def test_the_program_is_exact_on_ranks_that_do_not_divide_the_training_batch(
    finished_run: RunConfig,
) -> None:
    """And another generator's figures do not replace the run's."""
    one = evaluate_run(finished_run)
    for path in kept_features(finished_run):
        path.unlink()
    statuses, errors = run_ranks([f"run={finished_run.run}"], 3, program=PROGRAM)
    assert statuses == [0, 0, 0], errors
    three = json.loads((finished_run.run / "result.json").read_text())["metrics"]
    assert three["num_samples"] == 3
    for name in ("accu", "miou19", "miou_all"):
        assert three[name] == one[name]
    assert three["fd_lite0"] == pytest.approx(one["fd_lite0"], rel=1e-3)
    (path,) = kept_features(finished_run)
    assert load_weights(path)["real"].shape == (3, 1280)

    train_inputs = finished_run.run / "inputs.json"
    train_inputs.write_text(json.dumps({**inputs(finished_run), "generator.path": "0" * 64}))
    before = (finished_run.run / "result.json").read_bytes()
    done = run_program([str(PROGRAM), f"run={finished_run.run}"])
    assert "generator.path: sha256 000000000000" in done.stdout
    assert (finished_run.run / "result.json").read_bytes() == before
