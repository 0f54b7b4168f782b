"""Distances between sets of images: the formulas, FID and KID as others compute them, bad files."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
import torch_fidelity
from PIL import Image
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from maskrestore.evaluation.image_distances import ImageDistances, frechet_distance
from maskrestore.utils.errors import UserError


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


@pytest.mark.slow
def test_frechet_distance_is_that_of_torchmetrics() -> None:
    # Here, since to import it takes three seconds of a core, from every worker.
    from torchmetrics.image.fid import FrechetInceptionDistance

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


def write_images(images: Tensor, folder: Path) -> str:
    folder.mkdir()
    for number, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image).save(folder / f"{number}.png")
    return str(folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:TypedStorage:UserWarning")  # torch-fidelity 0.3 reads so
def test_fid_and_kid_are_those_of_torchmetrics_and_torch_fidelity(
    inception_file: Path, tmp_path: Path
) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

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

    official = torch_fidelity.calculate_metrics(
        input1=write_images(synthesized, tmp_path / "synthesized"),
        input2=write_images(real, tmp_path / "real"),
        **{"fid": True, "kid": True, "kid_subsets": 1, "kid_subset_size": len(real)},
        **{"cuda": False, "cache": False, "save_cpu_ram": True, "verbose": False},
        feature_extractor_weights_path=str(inception_file),
    )
    assert distances["fid"] == pytest.approx(official["frechet_inception_distance"], rel=1e-3)
    assert distances["kid"] == pytest.approx(official["kernel_inception_distance_mean"], rel=1e-3)


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
