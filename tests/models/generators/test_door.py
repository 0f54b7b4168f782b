"""One door for all image generators: what goes in, what comes out, what is refused."""

import io
import pickletools
from collections import OrderedDict
from pathlib import Path

import plain_generators as plain
import pytest
import torch
from label_sets import CITYSCAPES, NUM_CLASSES, TRAIN_IDS, one_hot
from tiny_evaluation import CPU, config_of

from maskrestore.data.segmap import edge_map
from maskrestore.models.build import load_frozen_generator
from maskrestore.models.generators import ccfpse
from maskrestore.models.generators.files import read_generator
from maskrestore.models.generators.image_generator import Form, ImageGenerator
from maskrestore.models.generators.style import NUM_LAYERS, StyleEncoder, load_style_encoder
from maskrestore.models.spade import SPADEGenerator
from maskrestore.utils.errors import ConfigError, UserError

C = NUM_CLASSES
OASIS = plain.oasis_shapes(C + 1, 2, 6, z=5)
GLOBAL = plain.pix2pixhd_shapes(C + 2, 4, 2, 1)
LOCAL = plain.pix2pixhd_shapes(C + 2, 2, 2, 1, local_blocks=1)
CCFPSE = ccfpse.layout(C + 2, 2, 4, 4, 5, 2)


def saved(path: Path, shapes: plain.Shapes) -> Path:
    torch.save(plain.random_state(shapes), path)
    return path


def spade(path: Path, inputs: int) -> Path:
    torch.save(SPADEGenerator(inputs, 2, 4, (32, 64)).state_dict(), path)
    return path


def encoder_shapes(style: int, width: int = 2) -> plain.Shapes:
    channels = [3, *(width * factor for factor in (1, 2, 4, 8, 8, 8))]
    shapes: dict[str, tuple[int, ...]] = {}
    for number in range(NUM_LAYERS):
        inputs, outputs = channels[number : number + 2]
        name = f"layer{number + 1}.0"
        shapes[f"{name}.weight_orig"] = (outputs, inputs, 3, 3)
        shapes[f"{name}.weight_u"], shapes[f"{name}.weight_v"] = (outputs,), (9 * inputs,)
    for name in ("fc_mu", "fc_var"):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (style, 16 * channels[-1]), (style,)
    return shapes


class Painter(torch.nn.Module):
    """Draws what it sees first, and remembers it."""

    def forward(self, shown: torch.Tensor) -> torch.Tensor:
        self.shown = shown
        return shown[:, :3]


def masks(height: int = 32, width: int = 64) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randint(0, C, (2, height, width))


def test_it_draws_at_a_size_of_its_own() -> None:
    """Masks are enlarged and edges found there; the image comes back at the masks' size."""
    painter, label_map = Painter(), masks()
    generator = ImageGenerator(painter, Form("SPADE", C + 1, True), CITYSCAPES, (64, 128))
    segmap = one_hot(label_map).requires_grad_()
    image = generator(segmap, "argmax")
    enlarged = label_map.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(painter.shown[:, :C], one_hot(enlarged))
    assert torch.equal(painter.shown[:, C + 1 :], edge_map(enlarged))
    assert torch.equal(image, one_hot(label_map)[:, :3])
    image.sum().backward()
    assert segmap.grad is not None
    assert torch.equal(segmap.grad[:, :3], torch.ones(2, 3, 32, 64))
    instance = torch.randint(0, 2**24, label_map.shape) * 3
    generator(segmap, "instance", instance)
    enlarged = instance.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(painter.shown[:, C + 1 :], edge_map(enlarged))


def test_a_generator_of_train_ids_sees_these(tmp_path: Path) -> None:
    painter, label_map = Painter(), masks()
    ImageGenerator(painter, Form("SPADE", 19, False), CITYSCAPES, (32, 64))(
        one_hot(label_map), "argmax"
    )
    train_ids = torch.tensor(TRAIN_IDS)[label_map]
    expected = torch.stack([train_ids == number for number in range(19)], 1).float()
    assert torch.equal(painter.shown, expected)
    form = read_generator(spade(tmp_path / "g.pth", 19), CITYSCAPES).form
    assert (form.num_labels, form.wants_edges) == (19, False)
    form = read_generator(spade(tmp_path / "g.pth", 20), CITYSCAPES).form
    assert (form.num_labels, form.wants_edges) == (19, True)


def generator_of(path: Path, *words: str) -> ImageGenerator:
    words = (f"generator.path={path}", "data.size=32x64", "seed=3", *words)
    generator = load_frozen_generator(config_of(*words), CPU)
    assert generator is not None
    return generator


def test_a_drawn_style_is_of_the_run_and_the_sample_alone(tmp_path: Path) -> None:
    path, segmap = saved(tmp_path / "g.pth", OASIS), one_hot(masks())
    drawn = generator_of(path, "generator.style=seed")
    both = drawn(segmap, "argmax", keys=("a", "b"))
    assert torch.equal(both, drawn(segmap, "argmax", keys=("a", "b")))
    alone = drawn(segmap[1:], "argmax", keys=("b",))
    assert torch.allclose(alone, both[1:], atol=1e-6)
    assert not torch.allclose(drawn(segmap[1:], "argmax", keys=("c",)), alone, atol=1e-3)
    other = generator_of(path, "generator.style=seed", "seed=4")
    assert not torch.allclose(other(segmap, "argmax", keys=("a", "b")), both, atol=1e-3)
    mean = generator_of(path)(segmap, "argmax")
    assert torch.equal(mean, generator_of(path)(segmap, "argmax"))
    assert not torch.allclose(mean, both, atol=1e-3)


def test_a_style_is_taken_of_the_real_image(tmp_path: Path) -> None:
    path = saved(tmp_path / "E.pth", encoder_shapes(style=5))
    state = torch.load(path, weights_only=True)
    image = torch.rand(2, 3, 40, 80) * 2 - 1
    x = torch.nn.functional.interpolate(image, (256, 256), mode="bilinear", align_corners=False)
    for number in range(1, NUM_LAYERS + 1):
        x = plain.convolved(state, f"layer{number}.0", x, stride=2)
        x = plain.leaky(plain.instance_normed(x))
    expected = x.flatten(1) @ state["fc_mu.weight"].T + state["fc_mu.bias"]
    encoder = load_style_encoder(path, 5)
    assert isinstance(encoder, StyleEncoder)
    assert torch.allclose(encoder(image), expected, atol=1e-4)
    words = (f"generator.style={path}", "generator.size=64x128")
    generator = generator_of(saved(tmp_path / "g.pth", CCFPSE), *words)
    segmap = one_hot(masks())
    real = torch.randint(0, 256, (2, 3, 32, 64), dtype=torch.uint8)
    one, other = (generator(segmap, "argmax", real=picture) for picture in (real, 255 - real))
    assert not torch.allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_takes_a_style(tmp_path: Path, precision: str) -> None:
    words = ("generator.style=seed", f"distributed.frozen_precision={precision}")
    generator = generator_of(saved(tmp_path / "g.pth", OASIS), *words)
    segmap = one_hot(masks()).requires_grad_()
    image = generator(segmap, "argmax", keys=("a", "b"))
    assert image.dtype == torch.float32
    image.square().mean().backward()
    assert segmap.grad is not None
    assert segmap.grad.isfinite().all()
    assert segmap.grad.any()


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        (
            plain.pix2pixhd_shapes(39, 4, 2, 1),
            "takes 39 input channels: those of a feature encoder",
        ),
        (
            plain.pix2pixhd_shapes(12, 4, 2, 1),
            "takes 12 input channels, but the 34 classes of Cityscapes need 35",
        ),
        (plain.pix2pixhd_shapes(3, 4, 2, 1), "is a feature encoder (netE) of pix2pixHD"),
        (plain.oasis_shapes(20, 2, 4, z=4), "this OASIS generator takes 24 input channels"),
        (plain.oasis_shapes(151, 2, 4, z=64), "this OASIS generator takes 215 input channels"),
        (encoder_shapes(4), "is a style encoder (netE); its place is generator.style"),
        ({"discriminator_0.model0.0.weight": (4, 4, 4, 4)}, "is a discriminator (netD)"),
        ({"scale0_layer0.0.weight": (4, 4, 4, 4)}, "is a discriminator (netD)"),
        ({"conv_logits.weight": (4, 4, 1, 1)}, "is a mask generator of ours"),
        ({"conv1.weight": (4, 3, 7, 7)}, "its tensors are conv1.weight"),
    ],
)
def test_a_file_that_is_none_of_them_is_named(
    tmp_path: Path, shapes: plain.Shapes, told: str
) -> None:
    path = saved(tmp_path / "g.pth", shapes)
    with pytest.raises(UserError) as caught:
        generator_of(path)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("shapes", [OASIS, CCFPSE, GLOBAL, LOCAL], ids=range(4))
def test_every_layout_is_read_strictly(tmp_path: Path, shapes: plain.Shapes) -> None:
    state, path = plain.random_state(shapes), tmp_path / "g.pth"
    words = ("data.size=64x128",)
    torch.save({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, path)
    generator_of(path, *words)
    gone, wide = "conv_img.bias", "conv_img.weight"
    if gone not in state:
        gone, wide = list(state)[-1], list(state)[-2]
    changed = {k: v for k, v in state.items() if k != gone} | {"more.weight": torch.ones(1)}
    torch.save(changed | {wide: torch.cat([state[wide]] * 2)}, path)
    with pytest.raises(UserError, match="does not fit") as caught:
        generator_of(path, *words)
    told = str(caught.value)
    assert f"1 missing ({gone})" in told
    assert "1 unknown (more.weight)" in told
    assert f"1 of another shape ({wide} is [" in told


def as_of_python_2(data: bytes) -> bytes:
    """A file of torch's old form, its texts as Python 2 pickled them."""
    result, stream = b"", io.BytesIO(data)
    for _ in range(5):  # a magic number, a version, the system, the object, its storages' keys
        begin = stream.tell()
        opcodes = [(code.name, text, at - begin) for code, text, at in pickletools.genops(stream)]
        own = data[begin : stream.tell()]
        ends = [at for *_, at in opcodes[1:]] + [len(own)]
        for (name, text, at), end in zip(opcodes, ends, strict=True):
            if name == "BINUNICODE":
                result += b"U" + bytes([len(text)]) + text.encode()
            else:
                result += own[at:end]
    return result + data[stream.tell() :]


def test_a_file_of_python_2_and_the_first_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = plain.random_state(plain.pix2pixhd_shapes(C + 2, 2, 2, 1, 1, legacy=True))

    def reduce_ex(tensor: torch.Tensor, _: int) -> tuple[object, ...]:
        storage = torch.storage.TypedStorage(
            wrap_storage=tensor.untyped_storage(), dtype=tensor.dtype, _internal=True
        )
        place = (tensor.storage_offset(), tuple(tensor.shape), tensor.stride())
        return torch._utils._rebuild_tensor, (storage, *place)

    buffer = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "__reduce_ex__", reduce_ex)
        torch.save(OrderedDict(state), buffer, _use_new_zipfile_serialization=False)
    data = as_of_python_2(buffer.getvalue())
    assert b"_rebuild_tensor\n" in data
    assert b"X" + len("model.1.weight").to_bytes(4, "little") not in data
    (tmp_path / "old.pth").write_bytes(data)
    torch.save(state, tmp_path / "new.pth")
    segmap = one_hot(masks())
    words = ("data.size=32x64",)
    old, new = (generator_of(tmp_path / f"{name}.pth", *words) for name in ("old", "new"))
    assert torch.equal(old(segmap, "argmax"), new(segmap, "argmax"))


def test_a_size_that_it_cannot_draw_names_those_nearby(tmp_path: Path) -> None:
    path = saved(tmp_path / "deep.pth", plain.pix2pixhd_shapes(C + 2, 2, 5, 1))
    with pytest.raises(
        UserError,
        match=r"draws no pictures of 32x64 .*: write generator\.size=HxW, the nearest being 64x64",
    ):
        generator_of(path)
    assert generator_of(path, "generator.size=64x128").size == (64, 128)
    with pytest.raises(ConfigError, match=r"generator\.size.*multiples of 32"):
        config_of("generator.size=50x100")


def test_a_style_that_does_not_fit(tmp_path: Path) -> None:
    oasis, pix2pixhd = saved(tmp_path / "o.pth", OASIS), saved(tmp_path / "p.pth", GLOBAL)
    drawing = saved(tmp_path / "c.pth", CCFPSE)
    encoder = saved(tmp_path / "E.pth", encoder_shapes(style=4))
    size = ("generator.size=64x128",)
    with pytest.raises(UserError, match=r"this pix2pixHD .* generator has no style"):
        generator_of(pix2pixhd, "generator.style=seed")
    with pytest.raises(
        UserError, match="gives a style of 4 numbers, but the image generator takes 5"
    ):
        generator_of(drawing, *size, f"generator.style={encoder}")
    with pytest.raises(UserError, match=r"only CC-FPSE .* this generator is of OASIS"):
        generator_of(oasis, f"generator.style={encoder}")
    with pytest.raises(UserError, match="is no style encoder"):
        generator_of(drawing, *size, f"generator.style={pix2pixhd}")
    with pytest.raises(UserError, match="no such weight file"):
        generator_of(drawing, *size, "generator.style=nowhere.pth")
