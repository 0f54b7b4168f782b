"""export.py: a run's mask generator as files, and its model card."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from forked import ROOT, run_program
from masks import config_of, draw_image, draw_mask, make_run, probabilities_of
from safetensors import safe_open

from maskrestore.config.inference import ExportConfig
from maskrestore.config.run import RunConfig
from maskrestore.inference import export
from maskrestore.models.build import make_mask_generator

pytestmark = pytest.mark.slow


def run_export(run: Path, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return run_program([str(ROOT / "export.py"), f"run={run}", f"output={output}", *more])


def test_the_files_compute_what_the_run_does_and_the_card_tells_what_it_is(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "condition=mask_image", "distributed.precision=bf16")
    out = tmp_path / "out"
    metrics = {"accu": 0.8125, "ece": 0.0625, "fd_lite0": 12.5, "miou19": None, "num_samples": 5}
    (run / "result.json").write_text(
        json.dumps({"num_images": 640, "metrics": metrics, "protocol": {"source": "camvid"}})
    )
    done = run_export(run, out)
    assert done.returncode == 0, done.stderr
    with safe_open(out / "model.safetensors", "pt") as file:
        config = RunConfig.model_validate(json.loads(file.metadata()["config"]))
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert config.task == "densify"
    network = make_mask_generator(config)
    network.load_state_dict(state)
    ids, image = draw_mask(tmp_path / "a.png"), draw_image(tmp_path / "b.png")
    program = torch.export.load(out / "model.pt2").module()
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
    probabilities = program(torch.from_numpy(ids.copy())[None].long(), pixels)[0].softmax(0)
    assert torch.allclose(probabilities, probabilities_of(run, ids, image), atol=1e-4)
    session = onnxruntime.InferenceSession(out / "model.onnx", providers=["CPUExecutionProvider"])
    given = {"label_map": ids[None].astype(np.int64), "image": pixels.numpy()}
    (logits,) = session.run(None, given)
    assert np.allclose(torch.from_numpy(logits[0]).softmax(0), probabilities, atol=1e-4)
    card = (out / "README.md").read_text()
    for text in (
        "Of 5 val samples (camvid)",
        "| accu | 0.8125 |",
        "| ece | 0.0625 |",
        "| exported at commit | ",
        "Input: int64 [B,32,64], uint8 [B,3,32,64].",
        "## Limits",
        "logits differ by 0 at most",
    ):
        assert text in card
    assert "miou19" not in card
    assert f"{out}/model.onnx: logits differ" in done.stdout
    for name in ("safetensors", "pt2", "onnx"):
        assert f"\n- model.{name}: logits differ by " in card
    # Nobody needs to know where it was made.
    for path in out.iterdir():
        for place in (tmp_path, ROOT):
            assert str(place).encode() not in path.read_bytes(), path

    again = run_export(run, out)
    assert again.returncode == 2
    assert "already holds model.safetensors, model.pt2" in again.stderr


def test_a_run_on_smaller_maps_is_exported_without_onnx_where_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a file of another model does not stay beside it."""
    run, out = (
        make_run(tmp_path / "run", "task=super_resolution", "degrade.factor=4"),
        tmp_path / "out",
    )
    out.mkdir()
    (out / "model.onnx").write_text("of another")
    (out / "notes.txt").write_text("mine")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    lines = export.export_run(ExportConfig(run=run, output=out, overwrite=True))
    assert "no model.onnx: onnxscript not installed (pip install onnxscript)" in lines
    names = ["README.md", "model.pt2", "model.safetensors", "notes.txt"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert "\n- no model.onnx: onnxscript not installed" in (out / "README.md").read_text()
    network = export.MaskRestorer(config_of(run).model_copy(update={"run": run}))
    program = torch.export.load(tmp_path / "out/model.pt2").module()
    example = network.example(3, seed=9)
    assert torch.allclose(program(*example), network(*example), atol=1e-5)
    assert "The run was not evaluated" in (tmp_path / "out/README.md").read_text()


@pytest.fixture
def without_pt2(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above make one."""
    monkeypatch.setattr(export, "_program", lambda network: (b"a program", 0.0))


@pytest.mark.usefixtures("without_pt2")
def test_what_the_onnx_exporter_refuses_is_told_and_the_rest_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise torch.onnx.OnnxExporterError("cannot\n  translate this")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    out = tmp_path / "out"
    lines = export.export_run(ExportConfig(run=make_run(tmp_path / "run"), output=out))
    assert "no model.onnx: cannot" in lines
    names = ["README.md", "model.pt2", "model.safetensors"]
    assert sorted(path.name for path in out.iterdir()) == names


@pytest.mark.usefixtures("without_pt2")
def test_so_is_what_onnxruntime_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real refusal, of a file that is no model."""

    class Exported:
        def save(self, path: Path, **_: object) -> None:
            path.write_bytes(b"no model")

    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: Exported())
    out = tmp_path / "out"
    lines = export.export_run(ExportConfig(run=make_run(tmp_path / "run"), output=out))
    assert any(line.startswith("no model.onnx: onnxruntime 1.") for line in lines)
    names = ["README.md", "model.pt2", "model.safetensors"]
    assert sorted(path.name for path in out.iterdir()) == names


def test_a_file_that_computes_something_else_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_program", lambda network: (b"", 0.5))
    with pytest.raises(RuntimeError, match=r"model.pt2: logits differ by 0.5"):
        export.export_run(ExportConfig(run=make_run(tmp_path / "run"), output=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
