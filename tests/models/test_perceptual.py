from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.config.networks import PerceptualConfig
from maskrestore.models.lite0 import Lite0Embedding, Lite0Features
from maskrestore.models.perceptual import VGG19Features, make_features
from maskrestore.utils.errors import UserError

VGG19_CONVOLUTIONS = {
    0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256),
    14: (256, 256), 16: (256, 256), 19: (256, 512), 21: (512, 512), 23: (512, 512),
    25: (512, 512), 28: (512, 512), 30: (512, 512), 32: (512, 512), 34: (512, 512),
}  # fmt: skip
"""torchvision's key number: channels in and out."""


@pytest.fixture(scope="module")
def vgg19_state() -> dict[str, Tensor]:
    """Random weights under torchvision's names, a classifier among them."""
    torch.manual_seed(0)
    state = {"classifier.0.weight": torch.ones(2, 2)}
    for number, (inputs, outputs) in VGG19_CONVOLUTIONS.items():
        weight = torch.randn(outputs, inputs, 3, 3).mul_((2 / (9 * inputs)) ** 0.5)
        state[f"features.{number}.weight"] = weight
        state[f"features.{number}.bias"] = 0.1 * torch.randn(outputs)
    return state


@pytest.fixture(scope="module")
def vgg19_file(
    vgg19_state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("vgg19") / "vgg19.pth"
    torch.save(vgg19_state, path)
    yield path
    path.unlink()  # 80 MB


@pytest.fixture(scope="module")
def lite0() -> Lite0Features:
    return Lite0Features()


def test_vgg19_taps(vgg19_state: dict[str, Tensor], vgg19_file: Path) -> None:
    features = make_features(PerceptualConfig(network="vgg19", weights=vgg19_file))
    assert isinstance(features, VGG19Features)
    assert features.tap_weights == (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
    image = (torch.rand(1, 3, 32, 48) * 2 - 1).requires_grad_()
    taps = features(image)
    assert [tuple(tap.shape[1:]) for tap in taps] == [
        (64, 32, 48), (128, 16, 24), (256, 8, 12), (512, 4, 6), (512, 2, 3),
    ]  # fmt: skip
    expected, x = [], image  # no ImageNet normalisation on the way in
    for number in [n for n in VGG19_CONVOLUTIONS if n <= 28]:
        weight = vgg19_state[f"features.{number}.weight"]
        if number in (5, 10, 19, 28):
            x = F.max_pool2d(x, 2)
        x = F.conv2d(x, weight, vgg19_state[f"features.{number}.bias"], padding=1).relu()
        if number in (0, 5, 10, 19, 28):
            expected.append(x)
    for tap, reference in zip(taps, expected, strict=True):
        torch.testing.assert_close(tap, reference, atol=1e-4, rtol=1e-4)
    (gradient,) = torch.autograd.grad(taps[-1].mean(), image)
    assert gradient.abs().max() > 0


def test_vgg19_file_must_fit(vgg19_state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "vgg16.pth"
    few = {name: value for name, value in vgg19_state.items() if name.startswith("features.0")}
    torch.save(few | {"features.1.weight": torch.ones(1)}, path)
    with pytest.raises(UserError, match=r"vgg16\.pth.*30 missing.*1 unknown"):
        VGG19Features(path)


def test_a_failed_download_names_both_ways_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(UserError) as caught:
        VGG19Features(None)
    assert "perceptual.weights=FILE" in str(caught.value)
    assert "perceptual.network=lite0" in str(caught.value)


def test_lite0_taps(lite0: Lite0Features) -> None:
    image = (torch.rand(2, 3, 64, 96) * 2 - 1).requires_grad_()
    taps = lite0(image)
    assert [tuple(tap.shape) for tap in taps] == [
        (2, 16, 32, 48), (2, 24, 16, 24), (2, 40, 8, 12), (2, 112, 4, 6), (2, 320, 2, 3),
    ]  # fmt: skip
    assert len(lite0.tap_weights) == 5
    for tap in taps:
        (gradient,) = torch.autograd.grad(tap.mean(), image, retain_graph=True)
        assert gradient.abs().max() > 0


def test_lite0_is_the_whole_trained_network(lite0: Lite0Features) -> None:
    """The stages and the embedding lead to the class scores of the package's own forward pass."""
    network = lite0.network
    image = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        scores = network((image.float() - 127) / 128)
        embedding = Lite0Embedding()(image)
        taps = lite0(image.float() / 127.5 - 1)
    torch.testing.assert_close(network._fc(embedding), scores, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        head = network._swish(network._bn1(network._conv_head(taps[-1])))
    torch.testing.assert_close(head.mean((2, 3)), embedding, atol=1e-4, rtol=1e-4)


def test_make_features_by_name() -> None:
    assert isinstance(make_features(PerceptualConfig(network="lite0")), Lite0Features)


def test_features_stay_frozen(lite0: Lite0Features) -> None:
    front = nn.Conv2d(3, 3, 1)
    parent = nn.Sequential(front, lite0)
    before = {name: value.clone() for name, value in lite0.state_dict().items()}
    parent.train()
    parent(torch.rand(1, 3, 32, 32))[-1].mean().backward()
    assert not any(module.training for module in lite0.modules())
    assert not any(parameter.requires_grad for parameter in lite0.parameters())
    assert all(torch.equal(before[name], value) for name, value in lite0.state_dict().items())
    assert front.weight.grad is not None
    assert front.weight.grad.abs().max() > 0


@pytest.mark.slow
def test_embedding_serves_torchmetrics() -> None:
    # Here, since to import it takes three seconds of a core, from every worker.
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    embedding = Lite0Embedding()
    torch.manual_seed(0)
    flat = torch.randint(0, 256, (6, 3, 1, 1), dtype=torch.uint8).expand(6, 3, 32, 32)
    noise = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    assert embedding(noise).shape == (6, embedding.num_features)
    assert embedding(noise).dtype == torch.float32
    distances = []
    for fake in (noise, flat):
        metric = FrechetInceptionDistance(feature=embedding)
        metric.update(noise, real=True)
        metric.update(fake, real=False)
        distances.append(metric.compute().item())
    assert distances[0] == pytest.approx(0, abs=1e-2)
    assert distances[1] > 1
    with pytest.warns(UserWarning, match="save all extracted features"):
        kernel = KernelInceptionDistance(feature=embedding, subsets=2, subset_size=4)
    kernel.update(noise, real=True)
    kernel.update(flat, real=False)
    assert kernel.compute()[0].item() > 0
