"""A training step with loss=ce_vgg_l1 as one writes it in a single script, from plain modules."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models import vgg19

from benchmarks.plain_spade import PlainGenerator, PlainMaskGenerator
from benchmarks.random_weights import calibrated

NUM_CLASSES = 34
TAPS = {1: 1 / 32, 6: 1 / 16, 11: 1 / 8, 20: 1 / 4, 29: 1.0}
"""Of VGG19's layers, with their weights."""


def make_step(
    device: str, batch_size: int, size: tuple[int, int], width: int, hidden: int, autocast: bool
) -> Callable[[], object]:
    """A function that takes one step on random data; weights are random too."""
    torch.manual_seed(0)
    restorer = PlainMaskGenerator(NUM_CLASSES, width, hidden, size).to(device)
    generator = PlainGenerator(NUM_CLASSES + 2, width, hidden, size)
    generator.load_state_dict(calibrated(NUM_CLASSES, width, hidden, size).state_dict())
    generator.to(device).eval().requires_grad_(False)
    vgg = vgg19().features[:30].to(device).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(restorer.parameters(), lr=2e-4)
    label_map = torch.randint(0, NUM_CLASSES, (batch_size, *size), device=device)
    real_image = 2 * torch.rand(batch_size, 3, *size, device=device) - 1
    degraded = F.one_hot(label_map, NUM_CLASSES).permute(0, 3, 1, 2).float()
    valid = torch.ones(batch_size, 1, *size, device=device)

    def features(image: Tensor) -> list[Tensor]:
        tapped = []
        for index, layer in enumerate(vgg):
            image = layer(image)
            if index in TAPS:
                tapped.append(image)
        return tapped

    def step() -> float:
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            logits = restorer(degraded, valid)
            loss = F.cross_entropy(logits, label_map)
            restored = logits.softmax(1)
            labels = restored.argmax(1)
            edges = torch.zeros_like(labels, dtype=torch.bool)
            rows, columns = labels[:, 1:] != labels[:, :-1], labels[..., 1:] != labels[..., :-1]
            edges[:, 1:] |= rows
            edges[:, :-1] |= rows
            edges[..., 1:] |= columns
            edges[..., :-1] |= columns
            never_lit = torch.zeros_like(restored[:, :1])
            segmap = torch.cat([restored, never_lit, edges[:, None].to(restored.dtype)], 1)
            image = generator(segmap)
            with torch.no_grad():
                real_features = features(real_image)
            for weight, x, y in zip(TAPS.values(), features(image), real_features, strict=True):
                loss = loss + weight * F.l1_loss(x, y)
            loss = loss + F.l1_loss(image, real_image)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
