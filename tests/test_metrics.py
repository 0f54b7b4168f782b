import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchmetrics.image.fid import FrechetInceptionDistance

from maskrestore.labels import LABEL_ID, LABELS
from maskrestore.metrics import (
    ImageDistances,
    SegmentationMetrics,
    frechet_distance,
)
from maskrestore.settings import UserError


def segmentation_figures(
    restored: Tensor, true: Tensor, annotated: Tensor | None = None
) -> dict[str, Any]:
    metric = SegmentationMetrics()
    everywhere = torch.ones_like(true, dtype=torch.bool)
    metric.update(restored, true, (everywhere if annotated is None else annotated)[:, None])
    return metric.compute()


def official_iou_of_class(true: np.ndarray, restored: np.ndarray, own: int) -> float:
    """Pixel by pixel, as the benchmark's rules read."""
    hits = misses = false_alarms = 0
    for t, r in zip(true.flat, restored.flat, strict=True):
        if LABELS[t].train_id == 255:
            continue
        hits += t == own and r == own
        misses += t == own and r != own
        false_alarms += t != own and r == own
    total = hits + misses + false_alarms
    return hits / total if total else float("nan")


def test_miou19_follows_the_official_rules() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(0, 30, (2, 12, 16))  # train, motorcycle, bicycle: never true
    restored = np.where(rng.random(true.shape) < 0.5, true, rng.integers(0, 32, true.shape))
    figures = segmentation_figures(torch.from_numpy(restored), torch.from_numpy(true))
    expected = {
        label.name: official_iou_of_class(true, restored, label.id)
        for label in LABELS
        if label.train_id != 255
    }
    assert len(expected) == 19
    absent = {name for name, iou in expected.items() if np.isnan(iou)}
    assert absent == {"motorcycle", "bicycle"}
    assert expected["train"] == 0  # restored, but never true: an error, not absent
    for name, iou in expected.items():
        assert figures["iou"][name] == (None if name in absent else pytest.approx(iou))
    assert figures["miou19"] == pytest.approx(np.nanmean(list(expected.values())))


def test_ignored_classes_in_the_official_rules() -> None:
    road, car, void = LABEL_ID["road"], LABEL_ID["car"], LABEL_ID["ego vehicle"]
    true = torch.tensor([[[road, road, road, car, void, void]]])
    restored = torch.tensor([[[road, void, car, car, road, void]]])
    figures = segmentation_figures(restored, true)
    assert figures["iou"]["road"] == pytest.approx(1 / 3)  # road over void costs nothing
    assert figures["iou"]["car"] == pytest.approx(1 / 2)
    assert figures["miou19"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    # Over all ids nothing is ignored: road 1/4, car 1/2, void 1/3.
    assert figures["miou_all"] == pytest.approx((1 / 4 + 1 / 2 + 1 / 3) / 3)


def test_accuracy_counts_all_pixels_void_too() -> None:
    true = torch.tensor([[[1, 1, 7, 7], [7, 7, 26, 0]]])
    restored = torch.tensor([[[1, 7, 7, 7], [0, 0, 26, 0]]])
    annotated = restored != 0
    figures = segmentation_figures(restored, true, annotated)
    assert figures["accu"] == 5 / 8
    assert figures["accu_annotated"] == 4 / 5
    assert figures["accu_unannotated"] == 1 / 3
    assert figures["num_samples"] == 1


def test_miou_all_averages_the_ids_of_the_true_masks() -> None:
    true = torch.tensor([[[1, 1, 7, 7]]])
    restored = torch.tensor([[[1, 33, 7, 7]]])
    assert segmentation_figures(restored, true)["miou_all"] == pytest.approx((1 / 2 + 1) / 2)


def test_a_part_without_pixels_has_no_accuracy() -> None:
    true = torch.tensor([[[7, 7]]])
    figures = segmentation_figures(true, true)
    assert figures["accu_unannotated"] is None
    assert figures["accu"] == figures["accu_annotated"] == figures["miou19"] == 1


def features(count: int, size: int, seed: int, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(size, size, generator=generator, dtype=torch.float64)
    return torch.randn(count, size, generator=generator, dtype=torch.float64) @ mixing + shift


def test_frechet_distance_is_the_formula_with_a_matrix_square_root() -> None:
    x, y = features(40, 12, seed=0), features(60, 12, seed=1, shift=0.5)
    cov_x, cov_y = np.cov(x.numpy(), rowvar=False), np.cov(y.numpy(), rowvar=False)
    root = scipy.linalg.sqrtm(cov_x @ cov_y).real
    mean = (x.mean(0) - y.mean(0)).square().sum().item()
    expected = mean + np.trace(cov_x + cov_y - 2 * root)
    assert frechet_distance(x, y).item() == pytest.approx(expected, rel=1e-10)


def test_frechet_distance_of_fewer_samples_than_features() -> None:
    """The case of 500 val images and 2048 features."""
    x, y = features(6, 30, seed=0), features(9, 30, seed=1)
    cov_x, cov_y = np.cov(x.numpy(), rowvar=False), np.cov(y.numpy(), rowvar=False)
    values, vectors = np.linalg.eigh(cov_x)
    half = vectors * np.sqrt(values.clip(0)) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(half @ cov_y @ half).clip(0)).sum()
    mean = (x.mean(0) - y.mean(0)).square().sum().item()
    expected = mean + np.trace(cov_x) + np.trace(cov_y) - 2 * shared
    assert frechet_distance(x, y).item() == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(x, x).item() == pytest.approx(0, abs=1e-10)


def test_frechet_distance_is_that_of_torchmetrics() -> None:
    class Identity(torch.nn.Module):
        num_features = 8

        def forward(self, x: Tensor) -> Tensor:
            return x

    x, y = features(50, 8, seed=2), features(50, 8, seed=3)
    reference = FrechetInceptionDistance(Identity()).set_dtype(torch.float64)
    reference.update(x, real=True)
    reference.update(y, real=False)
    assert frechet_distance(x, y).item() == pytest.approx(reference.compute().item(), rel=1e-8)


def random_images(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 32, 48), generator=generator, dtype=torch.uint8)


def unbiased_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Binkowski et al. 2018, pair by pair: kernel (x.y / d + 1)^3."""
    n, size = x.shape

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / size + 1) ** 3)

    pairs = [(i, j) for i in range(n) for j in range(n)]
    within = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs if i != j)
    across = sum(kernel(x[i], y[j]) for i, j in pairs)
    return float(within / (n * (n - 1)) - 2 * across / n**2)


def test_lite0_distances_have_their_own_names_and_formulas() -> None:
    metric = ImageDistances("lite0")
    real, synthesized = random_images(5, 0), random_images(5, 1) // 2
    metric.update(real[:2], synthesized[:2])
    metric.update(real[2:], synthesized[2:])
    random_state = torch.get_rng_state()
    distances = metric.compute()
    assert set(distances) == {"fd_lite0", "kd_lite0", "num_samples"}  # what is not FID is not FID
    assert distances["num_samples"] == 5
    assert torch.equal(torch.get_rng_state(), random_state)  # training goes on as without it

    x, y = metric.network(real).double(), metric.network(synthesized).double()
    assert distances["fd_lite0"] == pytest.approx(frechet_distance(x, y).item(), rel=1e-4)
    assert distances["kd_lite0"] == pytest.approx(unbiased_mmd(x.numpy(), y.numpy()), rel=1e-4)
    assert distances["fd_lite0"] > 0


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_fewer_than_two_images_have_no_distance(count: int) -> None:
    metric = ImageDistances("lite0")
    for number in range(count):
        metric.update(random_images(1, number), random_images(1, number + 1))
    assert metric.compute() == {"fd_lite0": None, "kd_lite0": None, "num_samples": count}


@pytest.fixture
def inception_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Inception with random weights, in the form of the real file."""
    path = tmp_path / "inception.pth"
    torch.save({"unused": torch.zeros(1)}, path)
    torch.manual_seed(0)
    with monkeypatch.context() as patch:
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
        )
    for name, value in network.state_dict().items():
        if name.endswith("conv.weight"):
            torch.nn.init.kaiming_normal_(value)  # else the features are next to nothing
        elif name.endswith("running_mean"):
            torch.nn.init.normal_(value, std=0.1)
        elif name.endswith("running_var"):
            torch.nn.init.uniform_(value, 0.5, 1.5)
    torch.save(network.state_dict(), path)
    return path


@pytest.mark.slow
def test_fid_is_that_of_torchmetrics(inception_file: Path) -> None:
    real, synthesized = random_images(4, 0), random_images(4, 1) // 2
    metric = ImageDistances("inception", inception_file)
    metric.update(real, synthesized)
    distances = metric.compute()
    assert set(distances) == {"fid", "kid", "num_samples"}

    reference = FrechetInceptionDistance(
        2048, feature_extractor_weights_path=str(inception_file), antialias=False
    )
    reference.update(real, real=True)
    reference.update(synthesized, real=False)
    assert distances["fid"] == pytest.approx(reference.compute().item(), rel=1e-3)
    plain = reference.inception(real)  # without folded batch norms, in the usual memory format
    assert torch.allclose(metric.network(real), plain, rtol=1e-5, atol=1e-5 * plain.max().item())
    x, y = (metric.network(images).double().numpy() for images in (real, synthesized))
    assert distances["kid"] == pytest.approx(unbiased_mmd(x, y), rel=1e-4)


class Exploit:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_a_file_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "executed"
    path.write_bytes(pickle.dumps({"fc.weight": Exploit(trace)}))
    with pytest.raises(UserError, match=r"weights\.pth"):
        ImageDistances("inception", path)
    assert not trace.exists()


def test_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save({"fc.weight": torch.zeros(3, 3)}, path)
    with pytest.raises(UserError, match=r"evaluation\.inception_weights=.*other\.pth"):
        ImageDistances("inception", path)


def test_a_failed_download_names_the_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(UserError) as raised:
        ImageDistances("inception")
    assert "evaluation.inception_weights=FILE" in str(raised.value)
    assert "evaluation.features=lite0" in str(raised.value)
