"""One of two processes that evaluate uneven shares: python evaluating.py FOLDER"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from tiny_evaluation import SHARES, Kept, figures_of


def process(folder: Path) -> None:
    """Evaluate this process's shares, and write the figures to FOLDER/RANK.json."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    kept = [Kept() for _ in SHARES]
    figures = [figures_of(*both) for both in zip((s[rank] for s in SHARES), kept, strict=True)]
    figures += [figures_of(*both) for both in zip((s[rank] for s in SHARES), kept, strict=True)]
    dist.destroy_process_group()
    (folder / f"{rank}.json").write_text(json.dumps(figures))


if __name__ == "__main__":
    process(Path(sys.argv[1]))
