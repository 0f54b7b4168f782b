"""A run's mask generator as files for use elsewhere, each held equal to the run's network."""

import importlib.util
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from maskrestore.config.inference import ExportConfig
from maskrestore.config.run import RunConfig
from maskrestore.data.degrade import degrade, mask_generator_input
from maskrestore.inference.model_card import model_card
from maskrestore.inference.trained_run import find_run
from maskrestore.models.build import load_mask_generator
from maskrestore.runs import provenance
from maskrestore.utils.errors import UserError
from maskrestore.utils.files import write_atomically

NAMES = ("model.safetensors", "model.pt2", "model.onnx", "README.md")
INPUTS = ["label_map", "image"]
FOR_ONNX = ("onnxscript", "onnxruntime")
"""Packages that nothing else here needs."""


class MaskRestorer(nn.Module):
    """The mask generator with what the program does around it: label ids in, logits out."""

    def __init__(self, run: RunConfig) -> None:
        super().__init__()
        plain = run.distributed.model_copy(update={"precision": "fp32"})
        self.run = run.model_copy(update={"distributed": plain})
        self.mask_generator = load_mask_generator(self.run).eval().requires_grad_(False)

    def forward(self, label_map: Tensor, image: Tensor | None = None) -> Tensor:
        """int64 [B,H,W] class numbers (densify: 0 = not annotated; super_resolution: the small map
        with each pixel repeated), and with condition=mask_image uint8 [B,3,H,W] -> logits float32
        [B,C,H,W]. H x W is the run's data.size, or data.crop."""
        degraded, valid = degrade(self.run, label_map, label_map)
        pixels = label_map if image is None else image
        logits: Tensor = self.mask_generator(
            *mask_generator_input(self.run, degraded, valid, pixels)
        )
        return logits

    def example(self, batch: int, seed: int = 0) -> tuple[Tensor, ...]:
        """A random mask, and an image where one is needed."""
        draw = torch.Generator().manual_seed(seed)
        size = (batch, *self.run.data.network_size)
        num_classes = self.run.data.labels.num_classes
        label_map = torch.randint(0, num_classes, size, generator=draw)
        if not self.run.image_channels:
            return (label_map,)
        shape = (batch, 3, *size[1:])
        return label_map, torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)


def export_run(config: ExportConfig) -> list[str]:
    """Write the files, whole or not at all; returns a line on each.

    Raises ConfigError or UserError for what the user can mend, RuntimeError if a file does not
    compute what the run's network does.
    """
    run = find_run(config.run, "run")
    taken = [name for name in NAMES if (config.output / name).exists()]
    if taken and not config.overwrite:
        raise UserError(
            f"output={config.output} already holds {', '.join(taken)}: give another folder, or "
            "overwrite=true"
        )
    network = MaskRestorer(run)
    contents: dict[str, bytes] = {}
    told: dict[str, str] = {}
    writers: dict[str, Callable[[MaskRestorer], tuple[bytes, float]]] = {
        "model.safetensors": _safetensors,
        "model.pt2": _program,
        "model.onnx": _onnx,
    }
    without = []
    for name, write in writers.items():
        try:
            with torch.no_grad():
                contents[name], difference = write(network)
        except (ImportError, torch.onnx.OnnxExporterError) as error:
            without.append(f"no {name}: {str(error).splitlines()[0]}")
            continue
        if not difference < 1e-3:
            raise RuntimeError(f"{name}: logits differ by {difference} from the run's network")
        told[name] = (
            f"logits differ by {difference:.1g} at most from the run's network, on random masks"
        )
    files = [*(f"{name}: {text}" for name, text in told.items()), *without]
    contents["README.md"] = model_card(run, files, example_shape(network)).encode()
    told["README.md"] = "the model card"
    config.output.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_atomically(config.output / name, content)
    for name in set(NAMES) - set(contents):  # of the model that was here before
        (config.output / name).unlink(missing_ok=True)
    return [*(f"{config.output / name}: {text}" for name, text in told.items()), *without]


def example_shape(network: MaskRestorer) -> str:
    """What the network takes, in words."""
    return ", ".join(
        f"{str(part.dtype).removeprefix('torch.')} [B,{','.join(map(str, part.shape[1:]))}]"
        for part in network.example(1)
    )


def _difference(network: MaskRestorer, other: Callable[..., Tensor]) -> float:
    """The largest of all logits, on batches of one and of three."""
    largest = 0.0
    for batch in (1, 3):
        example = network.example(batch, seed=batch)
        largest = max(largest, float((network(*example) - other(*example)).abs().max()))
    return largest


def _safetensors(network: MaskRestorer) -> tuple[bytes, float]:
    """The weights, with the run's settings as JSON in the metadata, less its paths."""
    state = {name: part.contiguous() for name, part in network.mask_generator.state_dict().items()}
    metadata = {
        "format": "pt",
        "config": json.dumps(_without_paths(network.run.model_dump())),
        "commit": str(provenance.commit()),
    }
    content = safetensors.torch.save(state, metadata)
    other = MaskRestorer(network.run)
    for part in other.parameters():
        part.zero_()
    other.mask_generator.load_state_dict(safetensors.torch.load(content))
    return content, _difference(network, other)


def _without_paths(values: Any) -> Any:
    """Settings less those that tell of places on the machine of the run."""
    if not isinstance(values, dict):
        return values
    return {
        name: _without_paths(value) for name, value in values.items() if not isinstance(value, Path)
    }


def _program(network: MaskRestorer) -> tuple[bytes, float]:
    """torch.export's program, for batches of any number."""
    content = io.BytesIO()
    torch.export.save(_exported(network), content)
    content.seek(0)
    return content.getvalue(), _difference(network, torch.export.load(content).module())


def _exported(network: MaskRestorer) -> Any:
    example = network.example(2)
    batch = {0: torch.export.Dim("batch", min=1)}
    shapes = dict.fromkeys(INPUTS[: len(example)], batch)
    program = torch.export.export(network, example, dynamic_shapes=shapes)
    for part in program.graph_module.modules():  # what runs in a context has a graph of its own
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # where the code lay, line by line
    return program


def _onnx(network: MaskRestorer) -> tuple[bytes, float]:
    missing = [name for name in FOR_ONNX if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"{', '.join(missing)} not installed (pip install {' '.join(missing)})")
    onnxruntime: Any = importlib.import_module("onnxruntime")
    names = INPUTS[: len(network.example(1))]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        exported = torch.onnx.export(_exported(network), input_names=names, verbose=False)
        if exported is None:
            raise torch.onnx.OnnxExporterError("torch.onnx.export gave nothing")
        exported.save(path, external_data=False)
        content = path.read_bytes()

    def compute(*example: Tensor) -> Tensor:
        given = {name: part.numpy() for name, part in zip(names, example, strict=True)}
        return torch.from_numpy(session.run(None, given)[0])

    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        return content, _difference(network, compute)
    except Exception as error:  # its errors have no other class in common
        raise torch.onnx.OnnxExporterError(
            f"onnxruntime {onnxruntime.__version__}: {error}"
        ) from error
