"""Whether what is computed there is right: against fp32, against the CPU, against differences."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import gradcheck

from benchmarks.gpu.settings import Figure, GpuBenchmark, cosine, difference, forget
from benchmarks.labels import LABELS, NUM_CLASSES
from benchmarks.plain_spade import PlainGenerator
from benchmarks.random_weights import calibrated
from maskrestore.config.data import height_and_width
from maskrestore.data.segmap import one_hot
from maskrestore.evaluation.counts import count
from maskrestore.evaluation.image_distances import ImageDistances
from maskrestore.models import modulation
from maskrestore.models.frozen import FrozenConv2d, FrozenGenerator
from maskrestore.models.fused import FusedBlock
from maskrestore.models.half_precision import in_precision
from maskrestore.models.mask_generator import MaskGenerator

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def precision(config: GpuBenchmark) -> Iterator[Figure]:
    """Formats, our autograd functions, and figures that two devices must agree on."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield from _kernels(config.device)
    yield from _derivatives(config.device)
    yield from _figures(config)
    for size, number in (
        (config.size, config.batch_size),
        (config.large_size, max(1, config.batch_size // 4)),
    ):
        yield from _frozen(config, height_and_width(size), number)
        forget(config.device)
    yield from _trained(config)


def _frozen(config: GpuBenchmark, size: tuple[int, int], number: int) -> Iterator[Figure]:
    """Image and gradient of the frozen generator in each format against a plain one in fp32."""
    generator = calibrated(NUM_CLASSES, config.width, config.hidden, size)
    plain = PlainGenerator(NUM_CLASSES + 2, config.width, config.hidden, size)
    plain.load_state_dict(generator.state_dict())
    plain.to(config.device).eval().requires_grad_(False)
    torch.manual_seed(1)
    segmap = torch.randn(number, NUM_CLASSES + 2, *size).mul(2).softmax(1).to(config.device)
    real = 2 * torch.rand(number, 3, *size).to(config.device) - 1

    def passes(call: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        x = segmap.clone().requires_grad_()
        image = call(x)
        (gradient,) = torch.autograd.grad((image.float() - real).abs().mean(), x)
        return image.detach(), gradient

    image, gradient = passes(plain)
    for name in ("fp32", "bf16", "fp16", "plain bf16 autocast"):
        forget(config.device)
        call: nn.Module = plain
        if name in ("fp32", *HALF):
            call = in_precision(FrozenGenerator(generator).to(config.device), name)
        with torch.autocast(config.device, torch.bfloat16, enabled=call is plain):
            mine, its = passes(call)
        what = f"frozen {name}, {number} of {size[0]}x{size[1]}"
        goal = {"fp32": "> 0.9999", "plain bf16 autocast": ""}.get(name, "> 0.99")
        yield Figure(f"{what}: image", difference(mine, image), "relative error")
        yield Figure(f"{what}: gradient", cosine(its, gradient), "cosine", goal)


def _trained(config: GpuBenchmark) -> Iterator[Figure]:
    """Logits and gradient of the mask generator under autocast against fp32."""
    size = config.height_width
    torch.manual_seed(0)
    network = MaskGenerator(NUM_CLASSES, config.width, config.hidden, size)
    nn.init.normal_(network.conv_logits.weight, std=0.02)  # which begins at zero
    network.to(config.device)
    blocks = torch.randint(0, NUM_CLASSES, (2, size[0] // 16, size[1] // 16))
    label_map = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2).to(config.device)
    valid = torch.ones(2, 1, *size, device=config.device)
    valid[..., : size[1] // 3] = 0
    start = one_hot(label_map, NUM_CLASSES) * valid
    exact: tuple[Tensor, Tensor] | None = None
    for name, kind in (("fp32", None), *HALF.items()):
        network.zero_grad()
        with torch.autocast(config.device, kind or torch.bfloat16, enabled=kind is not None):
            logits = network(start, valid).float()
        scale = 1024.0 if name == "fp16" else 1.0  # as GradScaler begins
        (F.cross_entropy(logits, label_map) * scale).backward()
        parts = [p.grad.flatten().double() for p in network.parameters() if p.grad is not None]
        gradient = torch.cat(parts) / scale
        if exact is None:
            exact = logits.detach(), gradient
            continue
        error = difference(logits.detach(), exact[0])
        yield Figure(f"mask generator {name}: logits", error, "relative error")
        yield Figure(
            f"mask generator {name}: gradient", cosine(gradient, exact[1]), "cosine", "> 0.99"
        )


def _kernels(device: str) -> Iterator[Figure]:
    """Whether Triton's kernels compute there what the plain form computes on the CPU."""
    if device != "cuda":
        yield Figure("Triton's kernels", "only a GPU has them")
        return
    for kind in modulation.TOLERANCES:
        x = torch.ones(1, 8, 2, 2, device=device, dtype=kind)
        fast = modulation.fast_form(x.contiguous(memory_format=torch.channels_last))
        yield Figure(f"Triton's kernels in {kind} pass their trial", fast is not None, goal="True")


def _derivatives(device: str) -> Iterator[Figure]:
    """Our autograd functions against differences, in float64."""
    torch.manual_seed(2)
    convolution = FrozenConv2d(4, 3, 3, padding=1).double().to(device).requires_grad_(False)
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64, device=device, requires_grad=True)
    yield Figure("gradcheck: frozen convolution", is_derivative(convolution, (x,)), goal="True")
    segmap = torch.randn(1, 5, 4, 8, dtype=torch.float64, device=device, requires_grad=True)
    for frozen in (True, False):
        block = FusedBlock(6, 3, 5, 2, frozen).double().to(device)
        for doubled in (True, False):
            height = 2 if doubled else 4
            x = torch.randn(1, 6, height, 2 * height, dtype=torch.float64, device=device)
            right = is_derivative(
                lambda x, segmap, block=block, doubled=doubled: block(x, segmap, doubled),
                (x.requires_grad_(), segmap),
                atol=1e-4,
            )
            kind = f"{'frozen' if frozen else 'trained'}{', doubled' if doubled else ''}"
            yield Figure(f"gradcheck: SPADE block, {kind}", right, goal="True")


def is_derivative(
    call: Callable[..., Tensor], inputs: tuple[Tensor, ...], atol: float = 1e-5
) -> bool | str:
    """Whether it is, else what is wrong with it. On a GPU sums may take another order each time."""
    try:
        return gradcheck(call, inputs, atol=atol, nondet_tol=1e-9)
    except RuntimeError as error:  # gradcheck's own is one
        return str(error).strip().splitlines()[0][:200]


def _figures(config: GpuBenchmark) -> Iterator[Figure]:
    """Metrics of a mask and distances of images there and on the CPU."""
    generator = torch.Generator().manual_seed(3)
    size = config.height_width
    shape = (3, *size)
    true = torch.randint(0, NUM_CLASSES, shape, generator=generator)
    wrong = torch.rand(shape, generator=generator) < 0.1
    restored = torch.where(wrong, torch.randint(0, NUM_CLASSES, shape, generator=generator), true)
    valid = torch.rand(3, 1, *size, generator=generator) < 0.6
    confidence = torch.rand(shape, generator=generator)
    given = (restored, true, valid, confidence)
    here = count(LABELS, *given)
    there = count(LABELS, *(tensor.to(config.device) for tensor in given))
    yield Figure("counts of masks equal the CPU's", torch.equal(here, there.cpu()), goal="True")
    real = torch.randint(0, 256, (6, 3, *size), dtype=torch.uint8, generator=generator)
    drawn = (real // 2 + 30).to(torch.uint8)
    values = []
    for device in ("cpu", config.device):
        distances = ImageDistances("lite0").to(device)
        distances.update(real.to(device), drawn.to(device))
        values.append(float(distances.compute()["fd_lite0"]))
    error = abs(values[1] - values[0]) / abs(values[0])
    yield Figure("fd_lite0 against the CPU's", error, "relative error", "< 0.001")
