"""The model card of an exported mask generator: what it is, from what, how good, how to use it."""

import json
from collections.abc import Sequence
from typing import Any

from maskrestore.config.inference import OVERLAP
from maskrestore.config.labels import LabelSet
from maskrestore.config.run import RunConfig
from maskrestore.models.mask_generator import NEVER
from maskrestore.runs import provenance
from maskrestore.runs.figures import SHARES
from maskrestore.runs.result import read_result
from maskrestore.utils.files import file_sha256

CARD = """# Mask generator: {task}

Restores incomplete semantic segmentation masks with the {classes}. Trained by
maskrestore (after Ahn & Sull, "Semantic Segmentation Restoration Using Pretrained Image Synthesis
Model", 2021). {purpose}

| | |
|---|---|
{facts}

## Figures

{figures}

## Files

{files}

Input: {inputs}. Output: logits, float32 [B,{num_classes},{height},{width}].
{numbers}

```python
import torch
restore = torch.export.load("model.pt2").module()
logits = restore({arguments})
restored, confidence = logits.argmax(1), logits.softmax(1).amax(1)
```

`model.safetensors` holds the weights of `maskrestore.models.mask_generator.MaskGenerator`, and the
settings of the run, less its paths, as JSON in its metadata (`config`).

## Limits

- The figures hold for masks like those above, {scenes}.
  Other cameras, cities, classes or ways of annotating were not measured.
- It can be sure of itself and wrong: confidence is the network's own (see `ece`, if it is above).
- A restored mask is a guess where nobody annotated. Have a person look at it before it counts.
- Weights come from data with licences of their own: Cityscapes and CamVid forbid commercial use.
"""


def model_card(run: RunConfig, files: Sequence[str], inputs: str) -> str:
    """Markdown. files: a line on each exported file; inputs: shapes and dtypes of what it takes."""
    height, width = run.data.network_size
    labels = run.data.labels
    smaller = run.task == "super_resolution"
    purpose = (
        f"Its input is a map that was made {run.degrade.factor} times smaller (sampling: "
        f"{run.degrade.sampling}), each pixel repeated to the full size."
        if smaller
        else "Its input is a mask of which only a part is annotated; 0 = nobody annotated it."
    )
    weights = run.run / "mask_generator.pth"
    facts: dict[str, Any] = {
        "task, loss": f"{run.task}, {run.loss}",
        "damage in training": run.degradation,
        "sees": run.condition.replace("_", " and "),
        "data": f"{run.data.source}, {run.data.size} (height x width)",
        "trained on": f"pieces of {run.data.crop}" if run.data.crop else "whole scenes",
        "images seen in training": run.total_images,
        "labels": f"{labels.name}, sha256 {labels.sha256}",
        "seed": run.seed,
        "network": f"width {run.mask_generator.width}, hidden {run.mask_generator.hidden}",
        "mask_generator.pth": f"sha256 {file_sha256(weights)}",
        "trained at commit": _commit(run) or "unknown",
        "exported at commit": provenance.commit() or "unknown",
    }
    return CARD.format(
        task=run.task,
        classes=f"{labels.num_classes} label ids of Cityscapes"
        if labels.has_unlabeled_class
        else f"{len(labels.classes)} classes of {labels.name}",
        num_classes=labels.num_classes,
        numbers=_numbers(labels),
        purpose=purpose,
        facts="\n".join(f"| {name} | {value} |" for name, value in facts.items()),
        figures=_figures(run),
        files="\n".join(f"- {line}" for line in files),
        inputs=inputs,
        arguments="label_map, image" if run.image_channels else "label_map",
        scenes=_scenes(run),
        height=height,
        width=width,
    )


def _scenes(run: RunConfig) -> str:
    """What the network restores at a time, and what the figures were made of."""
    if run.data.crop is None:
        return f"at {run.data.size} pixels: whole scenes, shrunk"
    return (
        f"pieces of {run.data.crop} pixels of scenes of {run.data.size}, put together from tiles "
        f"that overlap by {OVERLAP:.0%}"
    )


def _numbers(labels: LabelSet) -> str:
    """What the channels stand for, where that are not the ids themselves."""
    if all(number == entry.id for number, entry in enumerate(labels.by_number)):
        return ""
    entries = enumerate(labels.by_number)
    listed = ", ".join(f"{number} {entry.name} (id {entry.id})" for number, entry in entries)
    never = f" No mask is restored to 0: its logit is {NEVER:g}."
    never = "" if labels.has_unlabeled_class else never
    return f"Both count classes by their numbers: {listed}.{never}\n"


def _commit(run: RunConfig) -> str | None:
    path = run.run / provenance.PROVENANCE
    if not path.is_file():
        return None
    commit: str | None = json.loads(path.read_text(encoding="utf-8")).get("commit")
    return commit


def _figures(run: RunConfig) -> str:
    """The segmentation figures of result.json; None ones are left out."""
    if not (run.run / "result.json").is_file():
        return "The run was not evaluated: it has no result.json."
    result = read_result(run.run)
    metrics = result["metrics"]
    source = result["protocol"].get("source", run.data.source)
    lines = [
        f"| {name} | {value:.4g} |"
        for name, value in metrics.items()
        if name in SHARES and value is not None
    ]
    head = (
        f"Of {metrics.get('num_samples')} val samples ({source}), 0..1, by the run's own "
        "evaluation; what they mean: docs/evaluation.md of maskrestore."
    )
    return "\n".join([head, "", "| figure | |", "|---|---|", *lines])
