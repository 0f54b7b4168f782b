"""Run by tests/test_engine.py on each rank: several engines after one another on the same data.

Arguments: a JSON file that lists the jobs, each {"name", "words", "steps": [from, to], "load",
"save_at", "bad": [rank, step] or null}. Rank 0 writes NAME.pt and NAME.json beside it: the state;
losses, norms, and the weights' and evaluated network's sums. With save_at it writes NAME-first.pt
before that step, as a run saves on its way, and goes on.
"""

import json
import sys
from pathlib import Path

import torch
from accelerate.state import AcceleratorState

from maskrestore.config.run import load_config
from maskrestore.distributed.processes import autocast, gather_tensor, make_accelerator
from maskrestore.models.mask_generator import MaskGenerator
from maskrestore.training.setup import make_engine

SIZE, BATCH, CLASSES = (32, 96), 6, 5
"""Of 32x64 the smallest map has two pixels, whose instance norm is a sign: rounding decides."""


def batch_of(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The global batch: random label maps, one-hot and with a label missing here and there."""
    generator = torch.Generator().manual_seed(step)
    label_map = torch.randint(0, CLASSES, (BATCH, *SIZE), generator=generator)
    return torch.nn.functional.one_hot(label_map, CLASSES).permute(0, 3, 1, 2).float(), label_map


def run(job: dict, folder: Path) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    words = [f"training.batch_size={BATCH}", "distributed.device=cpu", *job["words"]]
    config = load_config(words)
    accelerator = make_accelerator(config, for_training=True)
    torch.manual_seed(0)
    checkpointing = config.distributed.activation_checkpointing
    # Wide enough that at stage 3 some weights are cut up (zero.py's persistence threshold).
    network = MaskGenerator(CLASSES, 3, 8, SIZE, checkpointing)
    state = None
    if job.get("load"):
        state = torch.load(folder / f"{job['load']}.pt", weights_only=True)
    engine = make_engine(accelerator, config, network, (0.9, 0.999), state, "the test")
    rank, world = accelerator.process_index, accelerator.num_processes
    share, parts = BATCH // world, config.training.accumulation
    losses, norms = [], []
    for step in range(*job["steps"]):
        if step == job.get("save_at"):
            state = engine.state()
            if rank == 0:
                torch.save(state, folder / f"{job['name']}-first.pt")
        segmap, label_map = (whole[rank * share : (rank + 1) * share] for whole in batch_of(step))
        total = torch.zeros(())
        for part in range(parts):
            mine = slice(part * share // parts, (part + 1) * share // parts)
            with engine.part(is_last=part == parts - 1):
                with autocast(config, accelerator.device):
                    valid = torch.ones(len(segmap[mine]), 1, *SIZE)
                    logits = engine.network(segmap[mine].roll(1, -1), valid)
                loss = torch.nn.functional.cross_entropy(logits.float(), label_map[mine]) / parts
                if job.get("bad") == [rank, step]:
                    loss = loss * torch.nan
                engine.backward(loss)
            total += loss.detach()
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        storages = {gradient.untyped_storage().data_ptr() for gradient in gradients}
        # Not faster than runs learn: Adam takes whole steps by gradients that are all rounding.
        norms.append(float(engine.step(1e-3)))
        losses.append(float(gather_tensor(accelerator, total).mean()))
    whole = engine.whole()
    if rank == 0:  # alone: nothing in the whole network may wait for the other processes
        with torch.no_grad():
            seen = float(whole(batch_of(99)[0], torch.ones(BATCH, 1, *SIZE)).double().abs().sum())
    state = engine.state()
    if rank == 0:
        torch.save(state, folder / f"{job['name']}.pt")
        facts = {"losses": losses, "norms": norms, "seen": seen, "world": world}
        facts["gradients"], facts["storages"] = len(gradients), len(storages)
        (folder / f"{job['name']}.json").write_text(json.dumps(facts))
    accelerator.wait_for_everyone()
    accelerator.free_memory()


if __name__ == "__main__":
    torch.set_num_threads(1)
    path = Path(sys.argv[1])
    for job in json.loads(path.read_text()):
        run(job, path.parent)
