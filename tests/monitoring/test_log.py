"""What a resumed run makes of the log that it finds."""

from pathlib import Path

from maskrestore.config.run import load_config
from maskrestore.monitoring.log import RunLog
from maskrestore.runs.metrics_file import METRICS


def test_a_resumed_run_drops_lines_of_steps_to_come_and_of_bytes_that_are_no_text(
    tmp_path: Path,
) -> None:
    lines = [b'{"num_images": 16}', b'{"num_images": \xff\xfe', b'{"num_images": 32}', b"{"]
    (tmp_path / METRICS).write_bytes(b"\n".join(lines))
    config = load_config([f"run={tmp_path}", "training.num_images=64"])
    with RunLog(config, 16, is_main=True, num_processes=1) as log:
        log.write({"losses": {}})
    assert log.mistake is None
    assert (tmp_path / METRICS).read_text().splitlines() == [
        '{"num_images": 16}',
        '{"num_images": 16, "total_images": 64, "losses": {}}',
    ]
