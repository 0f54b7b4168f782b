"""Plain programs of pix2pixHD, CC-FPSE and OASIS, and files of random weights in their layouts.

Written from the papers and the key layouts of the official files, operation by operation, without
the networks of the program: these are what the fast forms are held equal to.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]
OASIS_BLOCKS = ((16, 16), (16, 16), (16, 8), (8, 4), (4, 2), (2, 1))
CCFPSE_BLOCKS = {
    "head_0": (16, 16),
    "G_middle_0": (16, 16),
    "G_middle_1": (16, 16),
    "up_0": (16, 8),
    "up_1": (8, 4),
    "up_2": (4, 2),
    "up_3": (2, 1),
}


def random_state(shapes: Shapes, seed: int = 0) -> State:
    """Random float32 weights; statistics and spectral norms as training leaves them."""
    torch.manual_seed(seed)
    state: State = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            state[name] = 0.5 + torch.rand(shape)
        elif len(shape) > 1:
            state[name] = torch.randn(shape) * torch.tensor(shape[1:]).prod() ** -0.5
        else:
            state[name] = 0.1 * torch.randn(shape)
    for name in [name for name in state if name.endswith("weight_orig")]:
        matrix, v = state[name].flatten(1), torch.randn(state[name][0].numel())
        for _ in range(3):
            u = F.normalize(matrix @ v, dim=0)
            v = F.normalize(matrix.T @ u, dim=0)
        state[name.replace("orig", "u")], state[name.replace("orig", "v")] = u, v
    return state


def convolved(state: State, name: str, x: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
    """A convolution, under spectral norm if its names say so."""
    weight = state.get(f"{name}.weight")
    if weight is None:
        weight, u, v = (state[f"{name}.weight_{end}"] for end in ("orig", "u", "v"))
        weight = weight / (u @ (weight.flatten(1) @ v))
    return F.conv2d(x, weight, state.get(f"{name}.bias"), stride, padding)


def batch_normed(state: State, name: str, x: Tensor) -> Tensor:
    """With the running statistics, and an affine if its names say so."""
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(x, mean, var, state.get(f"{name}.weight"), state.get(f"{name}.bias"))


def nearest(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, like.shape[2:], mode="nearest")


def doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


# --- pix2pixHD


def pix2pixhd_shapes(
    inputs: int, width: int, downs: int, blocks: int, local_blocks: int = 0, legacy: bool = False
) -> Shapes:
    """width: ngf of the file; local_blocks: of a local one; legacy: with PyTorch 0.3's norms."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add(name: str, *shape: int) -> None:
        transposed = name.endswith("^")
        name = name.rstrip("^")
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, (shape[transposed],)
        place, _, number = name.rpartition(".")
        if legacy and shape[transposed] != 3:
            for kind in ("running_mean", "running_var"):
                shapes[f"{place}.{int(number) + 1}.{kind}"] = (shape[transposed],)

    g = 2 * width if local_blocks else width
    add("model.1", g, inputs, 7, 7)
    for i in range(downs):
        add(f"model.{4 + 3 * i}", g << (i + 1), g << i, 3, 3)
    for j in range(blocks):
        for part in (1, 5):
            add(f"model.{4 + 3 * downs + j}.conv_block.{part}", g << downs, g << downs, 3, 3)
    for i in range(downs):
        wide = g << (downs - i)
        add(f"model.{4 + 3 * downs + blocks + 3 * i}^", wide, wide // 2, 3, 3)
    if not local_blocks:
        add(f"model.{4 + 6 * downs + blocks + 1}", 3, g, 7, 7)
        return shapes
    add("model1_1.1", width, inputs, 7, 7)
    add("model1_1.4", 2 * width, width, 3, 3)
    for j in range(local_blocks):
        for part in (1, 5):
            add(f"model1_2.{j}.conv_block.{part}", 2 * width, 2 * width, 3, 3)
    add(f"model1_2.{local_blocks}^", 2 * width, width, 3, 3)
    add(f"model1_2.{local_blocks + 4}", 3, width, 7, 7)
    return shapes


def instance_normed(x: Tensor) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    variance = (x - mean).square().mean((2, 3), keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt()


def reflected(state: State, name: str, x: Tensor, pad: int) -> Tensor:
    return convolved(state, name, F.pad(x, (pad,) * 4, mode="reflect"), padding=0)


def residual(state: State, name: str, x: Tensor) -> Tensor:
    y = F.relu(instance_normed(reflected(state, f"{name}.conv_block.1", x, 1)))
    return x + instance_normed(reflected(state, f"{name}.conv_block.5", y, 1))


def upwards(state: State, name: str, x: Tensor) -> Tensor:
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return F.relu(instance_normed(F.conv_transpose2d(x, weight, bias, 2, 1, 1)))


def downwards(state: State, name: str, x: Tensor) -> Tensor:
    return F.relu(instance_normed(convolved(state, name, x, stride=2)))


def global_trunk(state: State, x: Tensor, downs: int, blocks: int) -> Tensor:
    x = F.relu(instance_normed(reflected(state, "model.1", x, 3)))
    for i in range(downs):
        x = downwards(state, f"model.{4 + 3 * i}", x)
    for j in range(blocks):
        x = residual(state, f"model.{4 + 3 * downs + j}", x)
    for i in range(downs):
        x = upwards(state, f"model.{4 + 3 * downs + blocks + 3 * i}", x)
    return x


def pix2pixhd_global(state: State, x: Tensor, downs: int, blocks: int) -> Tensor:
    last = f"model.{4 + 6 * downs + blocks + 1}"
    return torch.tanh(reflected(state, last, global_trunk(state, x, downs, blocks), 3))


def pix2pixhd_local(state: State, x: Tensor, downs: int, blocks: int, local_blocks: int) -> Tensor:
    half = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
    fine = F.relu(instance_normed(reflected(state, "model1_1.1", x, 3)))
    y = downwards(state, "model1_1.4", fine) + global_trunk(state, half, downs, blocks)
    for j in range(local_blocks):
        y = residual(state, f"model1_2.{j}", y)
    y = upwards(state, f"model1_2.{local_blocks}", y)
    return torch.tanh(reflected(state, f"model1_2.{local_blocks + 4}", y, 3))


# --- OASIS


def oasis_shapes(labels: int, width: int, hidden: int, z: int) -> Shapes:
    seen = z + labels
    shapes: dict[str, tuple[int, ...]] = {
        "conv_img.weight": (3, width, 3, 3),
        "conv_img.bias": (3,),
        "fc.weight": (16 * width, seen, 3, 3),
        "fc.bias": (16 * width,),
    }
    for number, factors in enumerate(OASIS_BLOCKS):
        inputs, outputs = (width * factor for factor in factors)
        middle, block = min(inputs, outputs), f"body.{number}"
        convolutions = {"conv_0": (inputs, middle, 3), "conv_1": (middle, outputs, 3)}
        norms = {"norm_0": inputs, "norm_1": middle}
        if inputs != outputs:
            convolutions["conv_s"], norms["norm_s"] = (inputs, outputs, 1), inputs
        for name, (a, b, kernel) in convolutions.items():
            shapes[f"{block}.{name}.weight_orig"] = (b, a, kernel, kernel)
            shapes[f"{block}.{name}.weight_u"] = (b,)
            shapes[f"{block}.{name}.weight_v"] = (a * kernel**2,)
            if name != "conv_s":
                shapes[f"{block}.{name}.bias"] = (b,)
        for name, channels in norms.items():
            for kind in ("running_mean", "running_var"):
                shapes[f"{block}.{name}.first_norm.{kind}"] = (channels,)
            shapes[f"{block}.{name}.first_norm.num_batches_tracked"] = ()
            parts = {"mlp_shared.0": (hidden, seen)}
            parts |= dict.fromkeys(("mlp_gamma", "mlp_beta"), (channels, hidden))
            for part, (b, a) in parts.items():
                shapes[f"{block}.{name}.{part}.weight"] = (b, a, 3, 3)
                shapes[f"{block}.{name}.{part}.bias"] = (b,)
    return shapes


def spade(state: State, name: str, x: Tensor, seen: Tensor, norm: str) -> Tensor:
    hidden = F.relu(convolved(state, f"{name}.mlp_shared.0", nearest(seen, x)))
    gamma, beta = (convolved(state, f"{name}.mlp_{part}", hidden) for part in ("gamma", "beta"))
    return batch_normed(state, f"{name}.{norm}", x) * (1 + gamma) + beta


def oasis(state: State, labels: Tensor, z: Tensor) -> Tensor:
    """z [B,k]; the picture is as large as the label map."""
    seen = torch.cat([z[:, :, None, None].expand(-1, -1, *labels.shape[2:]), labels], 1)
    height, width = labels.shape[2] // 32, labels.shape[3] // 32
    x = convolved(state, "fc", F.interpolate(seen, (height, width), mode="nearest"))
    for number in range(6):
        block = f"body.{number}"
        shortcut = x
        if f"{block}.conv_s.weight_orig" in state:
            own = spade(state, f"{block}.norm_s", x, seen, "first_norm")
            shortcut = convolved(state, f"{block}.conv_s", own, padding=0)
        for end in "01":
            y = leaky(spade(state, f"{block}.norm_{end}", x, seen, "first_norm"))
            x = convolved(state, f"{block}.conv_{end}", y)
        x = x + shortcut
        x = doubled(x) if number < 5 else x
    return torch.tanh(convolved(state, "conv_img", leaky(x)))


# --- CC-FPSE


def ccfpse(state: State, seg: Tensor, z: Tensor | None) -> Tensor:
    """z [B,k], or None for a file that begins with the labels."""
    height, width = seg.shape[2] // 64, seg.shape[3] // 64

    def unit(name: str, x: Tensor, stride: int = 1) -> Tensor:
        padding = 0 if "lat" in name else 1
        y = convolved(state, f"{name}.0.0", x, stride, padding)
        return leaky(batch_normed(state, f"{name}.0.1", y))

    if z is None:
        x = convolved(state, "fc", F.interpolate(seg, (height, width), mode="nearest"))
    else:
        x = F.linear(z, state["fc.weight"], state["fc.bias"])
        x = x.view(len(seg), -1, height, width)
    encoded = [unit("labelenc1", seg)]
    for level in range(2, 8):
        encoded.append(unit(f"labelenc{level}", encoded[-1], stride=2))
    t = encoded[6]
    for number, block in enumerate(CCFPSE_BLOCKS):
        if number:
            t = doubled(t) + unit(f"labellat{number}", encoded[6 - number])
            t = unit(f"labeldec{number}", t)
            x = doubled(x)
        x = _ccfpse_block(state, block, x, torch.cat([nearest(seg, x), t], 1))
    return torch.tanh(convolved(state, "conv_img", leaky(x)))


def _ccfpse_block(state: State, block: str, x: Tensor, seen: Tensor) -> Tensor:
    def predicted(name: str) -> Tensor:
        hidden = F.relu(convolved(state, f"{block}.gen_{name}.0", seen))
        return convolved(state, f"{block}.gen_{name}.2", hidden)

    shortcut = x
    if f"{block}.conv_s.weight_orig" in state:
        own = spade(state, f"{block}.norm_s", x, seen, "param_free_norm")
        shortcut = convolved(state, f"{block}.conv_s", own, padding=0)
    for number, mix in ((1, "conv_1"), (2, "conv_3")):
        y = batch_normed(state, f"{block}.norm_{number}", x)
        batch, channels, height, width = y.shape
        patches = F.unfold(y, 3, padding=1).view(batch, channels, 9, height, width)
        kernels = predicted(f"weights{number}").view(batch, channels, 9, height, width)
        y = (patches * kernels).sum(2)
        y = convolved(state, f"{block}.{mix}", y, padding=0)
        x = leaky(y * torch.sigmoid(predicted(f"se_weights{number}")))
    return x + shortcut
