"""How steps are judged: what is left out, what sends a run back, and who is to blame."""

import math

import pytest
import torch
from torch import Tensor

from maskrestore.config.execution import HealthConfig
from maskrestore.monitoring.health import Health, Report, Step

BATCH = 4


def step(number: int, total: float, norm: float = 1.0, scale: float = 1.0, **terms: float) -> Step:
    """The number-th step (from 1) of one process."""
    losses = {name: torch.tensor(value) for name, value in (terms or {"ce": total}).items()}
    keys = tuple(f"s{number}-{i}" for i in range(2))
    norms, scales = {"net": torch.tensor(norm)}, {"net": torch.tensor(scale)}
    return Step(number * BATCH, keys, torch.tensor(total), losses, norms, scales)


def beside(other: list[list[float]]) -> "type[list]":
    """A gather that adds a second process's rows [total, terms..., norms...],
    with the same scales."""

    def gather(own: Tensor) -> Tensor:
        rows = torch.tensor(other[: len(own)])
        return torch.stack([own, torch.cat([rows, own[:, rows.shape[1] :]], 1)])

    return gather  # type: ignore[return-value]


def judge(steps: list[Step], **settings: float) -> tuple[Health, Report]:
    health = Health(HealthConfig(**settings), BATCH, lambda own: own[None])
    for one in steps:
        health.add(one)
    report = health.read()
    assert report is not None
    return health, report


def test_means_are_over_the_good_steps_of_all_processes() -> None:
    health = Health(HealthConfig(), BATCH, beside([[3, 3, 1], [5, 5, 3], [9, 9, math.nan]]))
    for number, total in enumerate((1.0, 3.0, 9.0), 1):
        health.add(step(number, total, norm=math.nan if number == 3 else number))
    report = health.read()
    assert report is not None
    assert report.losses == {"ce": 3.0}
    assert report.gradient_norms == {"net": 1.75}
    assert [bad.num_images for bad in report.skipped] == [12]
    assert health.read() is None  # each step is told once


def test_the_term_and_the_process_are_named() -> None:
    rows = [[1.0, math.nan, 1.0, math.nan], [math.inf, 1.0, math.inf, math.nan]]
    health = Health(HealthConfig(), BATCH, beside(rows))
    health.add(step(1, 1.0, math.nan, ce=1.0, l1=1.0))
    health.add(step(2, 1.0, math.nan, ce=1.0, l1=1.0))
    report = health.read()
    assert report is not None
    assert [(bad.terms, bad.processes) for bad in report.skipped] == [
        (("ce",), (1,)),
        (("l1",), (1,)),
    ]
    assert health.keys_of(8) == ("s2-0", "s2-1")
    assert math.isnan(report.losses["ce"])


def test_a_gradient_that_is_not_finite_under_finite_losses_is_called_so() -> None:
    health, report = judge([step(1, 1.0, norm=math.inf)])
    assert report.skipped[0].terms == ("gradient",)
    assert health.describe_streak() == "gradient is not finite at image 4 (1 steps in a row)"


def test_so_many_in_a_row_send_the_run_back_and_one_good_step_forgives() -> None:
    bad, good = math.nan, 1.0
    losses = [good, bad, bad, good, bad, bad, bad, bad]
    steps = [step(n, loss, loss) for n, loss in enumerate(losses, 1)]
    health, report = judge(steps, max_skipped_steps=3)
    assert report.bad_images == (16, 32)  # the run of bad steps as far as it was read
    assert "loss ce is not finite at image 20 to 28 (3 steps in a row)" in report.reason
    assert health.num_in_a_row
    later = [*steps, step(9, good)]  # a good step ends the window, and is not in it
    assert judge(later, max_skipped_steps=3)[1].bad_images == (16, 32)
    health, report = judge(steps[:7], max_skipped_steps=4)
    assert report.bad_images is None
    assert health.num_in_a_row
    assert judge(steps[:4])[0].num_in_a_row == 0


def test_a_streak_goes_on_over_reports() -> None:
    health = Health(HealthConfig(max_skipped_steps=3), BATCH, lambda own: own[None])
    windows = []
    for number in range(1, 5):
        health.add(step(number, math.nan, math.nan))
        report = health.read()
        assert report is not None
        windows.append(report.bad_images)
    assert windows == [None, None, (0, 12), (0, 16)]


@pytest.mark.parametrize("deviations", [0.0, 6.0])
def test_a_jump_beyond_the_deviations_sends_the_run_back(deviations: float) -> None:
    losses = [1.0 + 0.01 * (n % 2) for n in range(40)]
    losses[35] = 1.5
    steps = [step(n, loss) for n, loss in enumerate(losses, 1)]
    _, report = judge(steps, spike_deviations=deviations)
    assert report.bad_images == ((140, 144) if deviations else None)
    assert ("jumped to 1.5 at image 144" in report.reason) == bool(deviations)
    first = judge(steps[:35])[0]
    resumed = Health(
        HealthConfig(spike_deviations=deviations), BATCH, lambda own: own[None], first.history
    )
    resumed.add(steps[35])
    again = resumed.read()
    assert again is not None
    assert again.bad_images == report.bad_images
    losses[35], losses[5] = 1.0, 1.5  # too early to know what is usual
    early = [step(n, loss) for n, loss in enumerate(losses[:20], 1)]
    assert judge(early, spike_deviations=deviations)[1].bad_images is None


def test_lowering_a_loss_scale_is_no_fault() -> None:
    steps = [step(n, 1.0, math.inf, scale=2.0**n) for n in range(8, 2, -1)]
    health, report = judge([*steps, step(9, 1.0, scale=4.0)], max_skipped_steps=2)
    assert (report.skipped, report.bad_images, report.num_lowered) == ([], None, 6)
    assert health.num_in_a_row == 0
    assert report.gradient_norms == {"net": 1.0}


@pytest.mark.parametrize("reports", [1, 2])
def test_a_gradient_that_no_scale_helps_is_one_from_the_first_overflow_on(reports: int) -> None:
    health = Health(HealthConfig(max_skipped_steps=4), BATCH, lambda own: own[None])
    told = []
    for number, scale in enumerate((1.0, 4.0, 2.0, 1.0, 1.0), 1):
        health.add(step(number, 1.0, 1.0 if number == 1 else math.inf, scale))
        if number == 3 and reports == 2:
            told.append(health.read())
    told.append(health.read())
    last = told[-1]
    assert last is not None
    assert sum(report.num_lowered for report in told if report) == 2
    assert [bad.num_images for bad in last.skipped] == [16, 20]
    assert last.bad_images == (4, 20)
    assert last.scales == {"net": 4.0}
    assert "gradient is not finite at image 8 to 20 (4 steps in a row)" in last.reason


def test_a_loss_that_is_not_finite_is_a_fault_at_any_scale() -> None:
    _, report = judge([step(1, math.nan, math.nan, 64.0)], max_skipped_steps=1)
    assert [bad.terms for bad in report.skipped] == [("ce",)]
    assert (report.bad_images, report.scales) == ((0, 4), {"net": 64.0})
