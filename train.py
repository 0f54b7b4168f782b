"""Train one run, or resume it by the same command.

python train.py config=demo task=densify loss=ce generator.path=runs/…/generator.pth
accelerate launch train.py config=cityscapes task=super_resolution loss=ce_vgg_l1 …
"""

from collections.abc import Sequence

from maskrestore.config.cli import end_process, run_program
from maskrestore.config.run import RunConfig, load_config
from maskrestore.distributed.places import num_processes
from maskrestore.utils.launcher import is_first_process


def main(words: Sequence[str]) -> None:
    """Parse, train, and say where the result is."""
    config = load_config(words)
    num_processes()  # what is wrong with them is said before torch is imported

    from maskrestore.training.loop import train

    train(config)
    if is_first_process():
        print(f"{config.run}/result.json")


if __name__ == "__main__":
    end_process(run_program(main, __doc__, RunConfig, as_several=True))
