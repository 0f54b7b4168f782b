"""train.py, but one process takes long to look at its shards. SLOW_SHARDS=RANK:SECONDS"""

import os
import time

from maskrestore.config.cli import end_process, run_program
from maskrestore.config.run import RunConfig
from maskrestore.training import setup
from train import main

rank, seconds = os.environ["SLOW_SHARDS"].split(":")
find_bad_shards = setup.find_bad_shards


def find_slowly(*arguments):  # type: ignore[no-untyped-def]
    """The same, later."""
    if os.environ["RANK"] == rank:
        time.sleep(float(seconds))
    return find_bad_shards(*arguments)


setup.find_bad_shards = find_slowly
end_process(run_program(main, "", RunConfig, as_several=True))
