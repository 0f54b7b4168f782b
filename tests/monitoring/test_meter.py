"""What a step costs: phases that add up, arithmetic as torch counts it, and memory."""

import mmap

import psutil
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from maskrestore.monitoring.meter import COMMUNICATION, OTHER, USAGE, Meter, peak_flops


def test_what_cannot_be_measured_ends_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(torch.device("cpu"))
    meter.begin()
    meter.end()
    monkeypatch.setattr("maskrestore.monitoring.meter._memory", lambda _: 1 / 0)
    measured = meter.read()
    assert (measured.steps, measured.usage.tolist()) == ([], [0.0] * len(USAGE))
    meter.begin()
    meter.end()
    assert meter.read().steps == []


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", 312 * 3 / 7),
        ("NVIDIA A30 MIG 1g.6gb", 165 / 4),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181),
        ("NVIDIA L40S", 362),
        ("NVIDIA A10G", 70),
        ("NVIDIA RTX A1000", 0),
        ("NVIDIA RTX A4000", 0),
        ("NVIDIA GeForce RTX 4090", 0),
    ],
)
def test_what_a_gpu_can_do_at_best(
    name: str, teraflops: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert peak_flops(torch.device("cuda"), 0.0) == pytest.approx(teraflops * 1e12)
    assert peak_flops(torch.device("cuda"), 3e12) == 3e12


class Little(nn.Module):
    """Trained and frozen convolutions, grouped and strided ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.frozen = nn.Conv2d(8, 8, 3, stride=2, groups=4).requires_grad_(False)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.frozen(self.first(x)))


def test_arithmetic_is_what_torch_counts() -> None:
    network, meter = Little(), Meter(torch.device("cpu"))
    meter.attend("little", network)
    meter.begin()
    meter.end()  # a step that is passed over
    with FlopCounterMode(display=False) as counter:
        meter.begin()
        meter.mark(OTHER)
        loss = network(torch.randn(2, 3, 16, 20)).square().mean()
        with torch.no_grad():
            network(torch.randn(1, 3, 8, 8))
        with meter.backward("little"):
            loss.backward()
        meter.end()
    assert meter.read().flops == counter.get_total_flops() > 0
    meter.begin()
    network(torch.randn(2, 3, 16, 20))
    meter.end()
    measured = meter.read()
    assert measured.flops == counter.get_total_flops()  # counted once
    assert measured.phases[COMMUNICATION] == 0
    assert sum(measured.phases.values()) == pytest.approx(sum(measured.steps))


def test_memory_is_what_is_resident_and_what_the_machine_has() -> None:
    meter = Meter(torch.device("cpu"))

    def usage() -> dict[str, float]:
        return dict(zip(USAGE, meter.read().usage.tolist(), strict=True))

    before = usage()
    with mmap.mmap(-1, 256 << 20) as kept:  # pages of its own: the heap may have some left
        kept.write(b"\1" * len(kept))
        after = usage()
        assert 0.9 * len(kept) < after["host"] - before["host"] < 3 * len(kept)
    assert 0 < after["host"] < after["host_limit"] == before["host_limit"]
    assert [after[name] for name in ("allocated", "reserved", "device_limit", "retries")] == [0] * 4


def test_memory_is_what_psutil_tells() -> None:
    usage = dict(zip(USAGE, Meter(torch.device("cpu")).read().usage.tolist(), strict=True))
    assert usage["host_limit"] == psutil.virtual_memory().total
    assert usage["host"] == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)
