"""What real runs tell Prometheus while they train, and in every kind of trouble."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forked import ROOT, Process, start_program
from metrics_page import by_label, scrape, targets_in, value, wait_for
from tiny_runs import (
    Words,
    end_of,
    free_port,
    lines_of,
    listens,
    run_train,
    start_ranks,
    wait_until,
)

from maskrestore.monitoring import exporter

LONG = ("task=densify", "training.num_images=100000", "training.log_images=8")


def stop(ranks: list[Process]) -> list[int]:
    for rank in ranks:
        rank.send_signal(signal.SIGTERM)
    return end_of(ranks)[0]


@pytest.mark.slow
def test_a_run_can_be_watched_stopped_and_watched_again(words: Words, tmp_path: Path) -> None:
    more = ("loss=ce_vgg_l1", "distributed.frozen_precision=bf16", "telemetry.peak_flops=1e11")
    run = words("run", *LONG, *more, "training.evaluate_images=40")
    ranks = start_ranks(run, 2)
    targets = tmp_path / "targets"
    [series] = wait_for(targets, 1, ranks, seen_images=48, evaluations_total=1, mfu_ratio=0)
    [(address, labels)] = targets_in(targets)
    assert address.startswith("127.0.0.1:")
    assert (labels["run"], labels["grid"]) == ("run", tmp_path.name)
    assert labels["node"] == labels["instance"] == socket.gethostname()

    # What metrics.jsonl says of the same moment.
    told = {line["num_images"]: line for line in lines_of(tmp_path / "run") if "losses" in line}
    losses = by_label(series, "loss", "term")
    assert losses in [line["losses"] for line in told.values()]
    assert value(series, "total_loss") == pytest.approx(sum(losses.values()), rel=1e-5)
    assert value(series, "planned_images") == 100_000
    assert value(series, "processes") == 2
    assert value(series, "images_total") == value(series, "seen_images")
    assert value(series, "progress_ratio") == value(series, "seen_images") / 100_000
    assert value(series, "eta_seconds") > 0
    assert by_label(series, "eval", "metric").keys() >= {"accu", "miou19", "fd_lite0"}
    assert by_label(series, "learning_rate", "network") == {"mask_generator": 1e-3}
    assert by_label(series, "gradient_scale", "network") == {"image_generator": 1}
    [info] = [dict(key) for name, key in series if name == "run_info"]
    assert (info["task"], info["loss"], info["device"]) == ("densify", "ce_vgg_l1", "cpu")

    # The phases add up to the steps, and every one was met with.
    phases = by_label(series, "step_phase_seconds_total", "phase")
    assert sum(phases.values()) == pytest.approx(value(series, "step_seconds_sum"), rel=1e-6)
    assert phases.keys() == {
        *("data", "mask_generator", "image_generator", "perceptual"),
        *("backward", "communication", "optimizer", "other"),
    }
    assert all(seconds > 0 for seconds in phases.values())
    assert by_label(series, "rank_step_seconds", "rank").keys() == {"0", "1"}
    assert value(series, "memory_bytes", rank="1", kind="host") > 1e7
    # The last report is at most 2 steps old.
    assert value(series, "step_seconds_count") == pytest.approx(
        value(series, "images_total") / 4, abs=3
    )
    assert time.time() - value(series, "checkpoint_timestamp_seconds") < 60
    assert value(series, "checkpoint_bytes") > 1e5

    assert stop(ranks) == [75, 75]
    assert targets_in(targets) == []
    assert not listens(int(address.rpartition(":")[2]))

    ranks = start_ranks(run, 2)
    [series] = wait_for(targets, 1, ranks, images_total=8)
    assert value(series, "starts_total") == 2
    assert value(series, "seen_images") > value(series, "images_total")
    assert targets_in(targets)[0][1] == labels  # so that its series go on
    stop(ranks)


@pytest.mark.slow
def test_each_node_answers_for_its_own_processes(words: Words, tmp_path: Path) -> None:
    run = words("run", *LONG, "loss=ce")
    port, ranks = free_port(), []
    for rank in range(3):
        own = {"RANK": rank, "LOCAL_RANK": rank % 2, "WORLD_SIZE": 3, "MASTER_PORT": port}
        node = {"SLURMD_NODENAME": f"node{rank // 2}", "MASTER_ADDR": "127.0.0.1"}
        environment = {name: str(word) for name, word in (own | node).items()}
        ranks.append(
            start_program([str(ROOT / "train.py"), *run, "training.batch_size=6"], environment)
        )
    # The report on the first 12 images is told before the step that ends with 18.
    first, second = wait_for(tmp_path / "targets", 2, ranks, seen_images=18)
    assert [labels["node"] for _, labels in targets_in(tmp_path / "targets")] == ["node0", "node1"]
    assert by_label(first, "rank_step_seconds", "rank").keys() == {"0", "1"}
    assert by_label(second, "rank_step_seconds", "rank").keys() == {"2"}
    only_once = {name for name, metric in exporter.METRICS.items() if not metric.per_node}
    assert {name for name, _ in second} & only_once == set()
    assert {"images_total", "total_loss"} <= {name for name, _ in first}
    stop(ranks)


@pytest.mark.slow
def test_names_that_need_escaping(words: Words, tmp_path: Path) -> None:
    name = 'a "quoted" <b>run\\ {x="y"} übung 名'
    ranks = start_ranks(words(name, *LONG, "loss=ce"), 1)
    [series] = wait_for(tmp_path / "targets", 1, ranks, seen_images=8)
    [(_, labels)] = targets_in(tmp_path / "targets")
    [info] = [dict(key) for metric, key in series if metric == "run_info"]
    assert labels["run"] == info["run"] == name
    stop(ranks)


def short(words: Words, *more: str) -> subprocess.CompletedProcess[str]:
    return run_train(words("run", "task=densify", "loss=ce", "training.num_images=8", *more))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("address=192.0.2.1", "Cannot assign requested address"),
        ("address=nowhere.invalid", "not answering at nowhere.invalid"),
        ("password_file={tmp}/none", "No such file"),
        ("password_file={tmp}/empty", "must hold USER:PASSWORD"),
        ("tls_certificate={tmp}/empty telemetry.tls_key={tmp}/empty", "not answering"),
        ("targets={tmp}/empty", "File exists"),
        ("pushgateway=http://127.0.0.1:9", "refused"),
    ],
)
def test_what_cannot_be_done_is_said_and_does_not_stop_the_run(
    word: str, told: str, words: Words, tmp_path: Path
) -> None:
    (tmp_path / "empty").touch()
    done = short(words, *("telemetry." + word.format(tmp=tmp_path)).split())
    assert done.returncode == 0, done.stderr
    assert told in done.stderr
    assert "the run goes on" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "run" / "result.json").is_file()


@pytest.mark.slow
def test_a_port_without_permission(words: Words, tmp_path: Path) -> None:
    drop = ["setpriv", "--bounding-set=-net_bind_service"] if os.geteuid() == 0 else []
    run = words("run", "task=densify", "loss=ce", "training.num_images=8", "telemetry.port=81")
    done = run_train(run, *drop, sys.executable)
    assert done.returncode == 0, done.stderr
    assert "Permission denied; the run goes on" in done.stderr


def test_a_certificate_without_its_key_is_refused(words: Words) -> None:
    done = short(words, "telemetry.tls_certificate=here.pem")
    assert done.returncode == 2
    assert "telemetry.tls_key" in done.stderr


def test_switched_off(words: Words, tmp_path: Path) -> None:
    assert short(words, "telemetry.serve=false").stderr.count("telemetry") == 0
    assert not (tmp_path / "targets").exists()


@pytest.mark.slow
def test_watched_or_not_a_run_computes_the_same(words: Words, tmp_path: Path) -> None:
    weights = []
    for name, serve in (("seen", "true"), ("unseen", "false")):
        more = ("task=densify", "loss=ce_vgg_l1", f"telemetry.serve={serve}")
        done = run_train(words(name, *more))
        assert done.returncode == 0, done.stderr
        weights.append(torch.load(tmp_path / name / "mask_generator.pth", weights_only=True))
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("prometheus-pushgateway"), reason="needs a Pushgateway")
def test_final_figures_go_to_a_pushgateway_and_old_ones_go_away(
    words: Words, tmp_path: Path
) -> None:
    port = free_port()
    address = f"127.0.0.1:{port}"
    gateway = subprocess.Popen(
        ["prometheus-pushgateway", f"--web.listen-address={address}"], stderr=subprocess.DEVNULL
    )
    try:
        while not listens(port):
            time.sleep(0.05)
        group = {"grid": tmp_path.name, "run": "run"}
        exporter.push(f"http://{address}", group, {"eval": {"of an earlier start": 1.0}})
        exporter.push(f"http://{address}", group | {"run": "other"}, {"eval": {"accu": 0.5}})
        long = words("run", *LONG, "loss=ce", f"telemetry.pushgateway=http://{address}")
        ranks = start_ranks(long, 1)
        wait_until(lambda: by_run(address).keys() == {"other"}, ranks)  # it starts: old ones go
        stop(ranks)
        shutil.rmtree(tmp_path / "run")
        assert short(words, f"telemetry.pushgateway=http://{address}").returncode == 0
        figures = by_run(address)
        assert figures["run"].keys() >= {"accu", "miou19"}
        assert figures["other"] == {"accu": 0.5}
    finally:
        gateway.kill()
        gateway.wait()


def by_run(address: str) -> dict[str, dict[str, float]]:
    """What a Pushgateway holds: run -> metric -> value."""
    figures: dict[str, dict[str, float]] = {}
    for (name, key), number in scrape(address).items():
        labels = dict(key)
        if name == "eval":
            figures.setdefault(labels["run"], {})[labels["metric"]] = number
    return figures
