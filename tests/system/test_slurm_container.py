"""A grid in containers on a real SLURM. Apptainer itself is not at hand: a program plays it that
notes its words and runs what it is told, and that outlives signals as apptainer's own process does.
"""

import sys
from pathlib import Path

import pytest
from slurm_cluster import Cluster, TinyGrid

pytestmark = pytest.mark.slow

APPTAINER = f"""#!/bin/bash
set -eu
[ "$1 $2 $5" = "exec --bind python3" ]
printf '%s\\n' "$3" > "$4"
shift 5
{sys.executable} "$@" &
trap : USR2 TERM # SLURM tells every process of a step
while :; do
    wait $! && status=0 || status=$?
    kill -0 $! 2> /dev/null || exit $status
done
"""


def test_a_cell_trains_stops_goes_on_and_is_reported(
    cluster: Cluster, grid: TinyGrid, tmp_path: Path
) -> None:
    program, image = tmp_path / "bin/apptainer", tmp_path / "image.sif"
    program.parent.mkdir()
    program.write_text(APPTAINER)
    program.chmod(0o755)
    image.touch()
    setup = f"slurm.setup=[export PATH={program.parent}:$PATH]"
    cluster.launch("submit.py", *grid.words, f"slurm.container={image}", setup)
    cluster.wait(lambda: grid.num_images() >= 16)
    cluster.run("scancel", "--signal=USR2", cluster.job(grid))
    cluster.wait_until_empty()
    assert [end["reason"] for end in grid.events("ended")][-1] == "finished"
    assert (grid.run / "result.json").is_file()
    assert (grid.folder / "g.md").is_file()
    mounts = image.read_text().strip().split(",")
    assert str(Path.cwd()) in mounts
    assert any(grid.run.is_relative_to(mount) for mount in mounts)
