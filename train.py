"""Train one run, or resume it by the same command.

python train.py config=demo task=densify loss=ce generator.path=runs/…/generator.pth
accelerate launch train.py config=cityscapes task=super_resolution loss=ce_vgg_l1 …
"""

import os
from collections.abc import Sequence

from maskrestore.config.cli import end_process, run_program
from maskrestore.config.run import RunConfig, load_config


def main(words: Sequence[str]) -> None:
    """Parse, train, and say where the result is."""
    config = load_config(words)

    from maskrestore.training.loop import train

    train(config)
    if os.environ.get("RANK", "0") == "0":
        print(f"{config.run}/result.json")


if __name__ == "__main__":
    end_process(run_program(main, __doc__, RunConfig))
