import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrestore.models.winograd import MIN_PIXELS, Conv3x3, use_winograd


def twins(in_channels: int, out_channels: int) -> tuple[nn.Conv2d, Conv3x3]:
    """The same convolution as PyTorch computes it, and by Winograd's algorithm."""
    torch.manual_seed(0)
    plain = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    fast = Conv3x3(in_channels, out_channels)
    fast.load_state_dict(plain.state_dict())
    use_winograd(fast)
    return plain, fast


def results(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Output, and the gradients to input, weight and bias."""
    x = x.clone().requires_grad_()
    y = layer(x)
    weights = torch.linspace(-1, 2, y.numel()).view_as(y)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()])]


@pytest.mark.parametrize(
    ("batch", "channels", "size"),
    [(1, (8, 16), (32, 64)), (3, (35, 34), (33, 47)), (2, (64, 3), (64, 64)), (2, (3, 8), (8, 8))],
)
def test_equals_the_plain_convolution(
    batch: int, channels: tuple[int, int], size: tuple[int, int]
) -> None:
    plain, fast = twins(*channels)
    x = torch.randn(batch, channels[0], *size)
    for found, expected in zip(results(fast, x), results(plain, x), strict=True):
        scale = expected.abs().max()
        torch.testing.assert_close(found / scale, expected / scale, atol=1e-4, rtol=0)


def test_takes_the_fast_way_on_large_maps_only_and_only_if_told() -> None:
    def differs(layer: Conv3x3, pixels: int) -> bool:
        x = torch.randn(1, 64, pixels // 8, 8)
        return not torch.equal(layer(x), F.conv2d(x, layer.weight, layer.bias, padding=1))

    _, fast = twins(64, 64)
    assert differs(fast, MIN_PIXELS)
    assert not differs(fast, MIN_PIXELS - 8)
    untold = Conv3x3(64, 64)
    assert not differs(untold, MIN_PIXELS)


def test_an_image_does_not_depend_on_its_batch() -> None:
    _, fast = twins(16, 16)
    x = torch.randn(3, 16, 32, 64)
    together = fast(x)
    assert all(torch.equal(together[i], fast(x[i : i + 1])[0]) for i in range(3))


def test_what_needs_no_gradient_gets_none() -> None:
    _, fast = twins(4, 4)
    fast.requires_grad_(False)
    x = torch.randn(1, 4, 32, 64, requires_grad=True)
    fast(x).sum().backward()
    assert x.grad is not None
    assert fast.weight.grad is None
    with torch.no_grad():
        assert not fast(x).requires_grad
