import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.plain_spade import PlainBlock, PlainMaskGenerator
from maskrestore.data.degrade import nearest_downsample, nearest_upsample
from maskrestore.data.segmap import one_hot
from maskrestore.models.lite0 import Lite0Features
from maskrestore.models.mask_generator import MaskGenerator


def scenes(count: int, size: tuple[int, int]) -> Tensor:
    """Label maps of 5 classes: a ground line, and a box of a random class standing on it."""
    height, width = size
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    maps = []
    for _ in range(count):
        horizon = int(torch.randint(height // 3, 2 * height // 3, ()))
        left = int(torch.randint(0, width // 2, ()))
        label_map = (rows >= horizon).long().expand(height, width).clone()
        box = (columns >= left) & (columns < left + width // 3) & (rows < horizon) & (rows > 5)
        label_map[box] = int(torch.randint(2, 5, ()))
        maps.append(label_map)
    return torch.stack(maps)


@pytest.mark.parametrize("size", [(64, 128), (96, 64), (64, 64), (32, 32)])
def test_shapes(size: tuple[int, int]) -> None:
    generator = MaskGenerator(34, 1, 2, size)
    logits = generator(torch.rand(1, 34, *size), torch.ones(1, 1, *size, dtype=torch.bool))
    assert logits.shape == (1, 34, *size)
    assert logits.dtype == torch.float32


def fused(plain: PlainMaskGenerator, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights (or gradients) of the plain module by the fused one's names."""
    renamed = {name: tensor for name, tensor in state.items() if ".norm_" not in name}
    for name, block in plain.named_children():
        if isinstance(block, PlainBlock):
            ends = "01s" if block.learned_shortcut else "01"
            for kind in ("weight", "bias"):
                parts = [state[f"{name}.norm_{end}.mlp_shared.0.{kind}"] for end in ends]
                renamed[f"{name}.shared.{kind}"] = torch.cat(parts)
                for end in ends:
                    parts = [state[f"{name}.norm_{end}.mlp_{x}.{kind}"] for x in ("gamma", "beta")]
                    renamed[f"{name}.modulation_{end}.{kind}"] = torch.cat(parts)
    return renamed


@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
def test_equals_the_plain_module_in_output_and_gradients(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    plain = PlainMaskGenerator(5, 2, 4, size).double()
    fast = MaskGenerator(5, 2, 4, size).double()
    state = fused(plain, plain.state_dict())
    for name in state:
        if "modulation" in name and name.endswith("bias"):
            state[name] = state[name].clone()
            state[name][: len(state[name]) // 2] += 1
    fast.load_state_dict(state)
    segmap = torch.rand(2, 5, *size, dtype=torch.float64)
    valid, label_map = (torch.rand(2, 1, *size) > 0.5).double(), torch.randint(0, 5, (2, *size))
    logits, expected = fast(segmap, valid), plain(segmap, valid)
    torch.testing.assert_close(logits, expected)
    for result in (logits, expected):
        F.cross_entropy(result, label_map).backward()
    gradients = fused(plain, {name: p.grad for name, p in plain.named_parameters()})
    for name, parameter in fast.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], msg=name)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    generator = MaskGenerator(5, 2, 4, (32, 64)).train().double()
    segmap = torch.rand(3, 5, 32, 64, dtype=torch.float64)
    valid = torch.rand(3, 1, 32, 64) > 0.5
    together = generator(segmap, valid)
    alone = torch.cat([generator(segmap[i : i + 1], valid[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)
    assert not list(generator.buffers())


def test_checkpointing_computes_twice_and_gives_the_same_gradients() -> None:
    def gradients(checkpointing: bool) -> tuple[int, list[Tensor]]:
        torch.manual_seed(0)
        generator = MaskGenerator(5, 2, 4, (32, 64), checkpointing).train()
        runs: list[nn.Module] = []
        generator.head_0.conv_0.register_forward_pre_hook(lambda module, _: runs.append(module))
        segmap, label_map = torch.rand(2, 5, 32, 64), torch.randint(0, 5, (2, 32, 64))
        F.cross_entropy(generator(segmap, torch.ones(2, 1, 32, 64)), label_map).backward()
        return len(runs), [p.grad for p in generator.parameters() if p.grad is not None]

    (once, kept), (twice, again) = gradients(False), gradients(True)
    assert (once, twice) == (1, 2)
    assert len(kept) == len(list(MaskGenerator(5, 2, 4, (32, 64)).parameters()))
    assert all(torch.equal(one, other) for one, other in zip(kept, again, strict=True))


def trained_a_little(generator: MaskGenerator) -> MaskGenerator:
    """As after some steps: the last layer says something."""
    with torch.no_grad():
        generator.conv_logits.weight.normal_(0, 0.1)
    return generator


def test_sees_which_pixels_are_annotated() -> None:
    torch.manual_seed(0)
    generator = trained_a_little(MaskGenerator(5, 2, 4, (32, 64)))
    empty, valid = torch.zeros(1, 5, 32, 64), torch.ones(1, 1, 32, 64, dtype=torch.bool)
    assert not torch.allclose(generator(empty, valid), generator(empty, ~valid))


def test_training_begins_at_the_start() -> None:
    torch.manual_seed(0)
    generator = MaskGenerator(5, 2, 4, (32, 64), num_further=1)
    start = torch.rand(2, 5, 32, 64).softmax(1)
    with torch.no_grad():
        logits = generator(start, torch.ones(2, 1, 32, 64), torch.rand(2, 1, 32, 64))
    assert torch.equal(logits.argmax(1), start.argmax(1))


def test_sees_what_imagenet_has_taught_of_the_image() -> None:
    """Frozen, it stays as it is, costs the optimizer nothing and leaves no buffers to agree on."""
    torch.manual_seed(0)
    shown = torch.rand(2, 5, 32, 64), torch.ones(2, 1, 32, 64), torch.rand(2, 3, 32, 64) * 2 - 1
    generator = MaskGenerator(5, 2, 4, (32, 64), sees_image=True, image_features="lite0").train()
    trained_a_little(generator)
    features = generator.image_features
    assert features is not None
    large = F.interpolate(shown[2], scale_factor=2, mode="bilinear")
    expected = Lite0Features()(large)
    seen: list[Tensor] = []
    for mix in features.mix:
        mix.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    generator(*shown).sum().backward()
    for stage, plain in zip(seen, expected, strict=True):
        torch.testing.assert_close(stage, plain, rtol=1e-4, atol=1e-3)
    assert all(p.grad is None and not p.requires_grad for p in features.lite0.parameters())
    assert all(p.grad is not None for p in features.mix.parameters())
    assert not list(generator.buffers())


@pytest.mark.slow
def test_learns_to_restore_in_few_steps() -> None:
    torch.manual_seed(0)
    generator = MaskGenerator(5, 4, 8, (32, 64))
    optimizer = torch.optim.Adam(generator.parameters(), 3e-3)

    def batch(count: int) -> tuple[Tensor, Tensor]:
        label_map = scenes(count, (32, 64))
        return label_map, nearest_upsample(nearest_downsample(label_map, 8, "corner"), 8)

    for _ in range(20):
        label_map, degraded = batch(8)
        logits = generator(one_hot(degraded, 5), torch.ones(8, 1, 32, 64))
        optimizer.zero_grad()
        F.cross_entropy(logits, label_map).backward()
        optimizer.step()
    label_map, degraded = batch(16)
    with torch.no_grad():
        restored = generator(one_hot(degraded, 5), torch.ones(16, 1, 32, 64)).argmax(1)
    errors_before = (degraded != label_map).float().mean()
    errors_after = (restored != label_map).float().mean()
    assert errors_after < 0.8 * errors_before
