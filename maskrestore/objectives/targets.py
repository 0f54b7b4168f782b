"""What the cross entropy compares with: the true masks, or what there is without them."""

from pathlib import Path

import torch
from torch import Tensor, nn

from maskrestore.config.labels import UNANNOTATED
from maskrestore.config.run import RunConfig
from maskrestore.data.degrade import degrade, mask_generator_input
from maskrestore.data.loader import Batch, sent
from maskrestore.data.prior import nearest_annotated, nearest_label
from maskrestore.data.sampler import has_true_mask
from maskrestore.models.build import load_mask_generator
from maskrestore.runs.resume_check import read_run_config
from maskrestore.utils.errors import UserError

IGNORED = -100
"""Of pixels that do not count, as F.cross_entropy has it."""


class Teacher(nn.Module):
    """Another run's mask generator, frozen: its restored masks are what is trained on."""

    def __init__(self, run: Path, size: tuple[int, int]) -> None:
        """size: (height, width) of the masks. UserError if there is no such finished run, or its
        masks are of another size."""
        super().__init__()
        settings = run / "config.yaml"
        if not settings.is_file():
            raise UserError(f"teacher={run}: there is no {settings}; give the folder of a run")
        self.config = read_run_config(settings).model_copy(update={"run": run})
        if self.config.task == "synthesis" or not self.config.trains:
            raise UserError(
                f"teacher={run}: a run with task={self.config.task} loss={self.config.loss} "
                "restores no masks"
            )
        its_size = self.config.data.network_size
        if its_size != size:
            its, ours = ("x".join(map(str, sides)) for sides in (its_size, size))
            raise UserError(
                f"teacher={run}: it restores masks of {its}, and this run trains on {ours}: give "
                f"one whose data.size, or data.crop, is {ours}"
            )
        self.network = load_mask_generator(self.config).requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, batch: Batch) -> Tensor:
        """The masks that it restores, int64 [B,H,W]; what was annotated stays."""
        label_map, valid = degrade(self.config, batch.fine, batch.coarse)
        shown = mask_generator_input(self.config, label_map, valid, batch.image)
        restored: Tensor = self.network(*shown).argmax(1)
        if self.config.task == "super_resolution":
            return restored
        return torch.where(valid[:, 0], label_map, restored)


def target_of(config: RunConfig, batch: Batch, teacher: Teacher | None) -> Tensor:
    """The masks to compare with, int64 [B,H,W]; IGNORED where there is nothing to compare with."""
    if config.target == "true":
        few = config.data.num_true_masks
        hidden = [not has_true_mask(position, few) for position in batch.positions]
        fine = batch.fine
        if not config.data.labels.has_unlabeled_class:
            fine = fine.masked_fill(fine == UNANNOTATED, IGNORED)
        if not any(hidden):
            return fine
        where = sent(torch.tensor(hidden), fine.device)[:, None, None]
        return fine.masked_fill(where, IGNORED)
    if teacher is not None:
        restored: Tensor = teacher(batch)
        return restored
    label_map, valid = degrade(config, batch.fine, batch.coarse)
    if config.target == "nearest":
        place, _ = nearest_annotated(valid[:, 0])
        label_map = nearest_label(label_map, place)
        valid = valid.flatten(1).any(1)[:, None, None, None].expand_as(valid)
    return label_map.masked_fill(~valid[:, 0], IGNORED)
