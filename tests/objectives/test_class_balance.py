"""How much classes count."""

import pytest
import torch

from maskrestore.objectives.class_balance import MOST, class_weights

PIXELS = [0, 6400, 1600, 400, 1600]


def test_an_exponent_of_zero_is_the_papers_cross_entropy() -> None:
    assert class_weights(PIXELS, 0).tolist() == [1] * 5


@pytest.mark.parametrize("exponent", [0.25, 0.5, 1])
def test_rare_classes_count_more_and_the_mean_pixel_one(exponent: float) -> None:
    weights = class_weights(PIXELS, exponent)
    shares = torch.tensor(PIXELS) / 10_000
    assert float((shares * weights).sum()) == pytest.approx(1)
    assert float(weights[3] / weights[1]) == pytest.approx(16**exponent)
    assert weights[2] == weights[4]


def test_a_class_of_a_handful_of_pixels_or_of_none_counts_ten_times_at_most() -> None:
    weights = class_weights([0, 10**9, 1], 0.5)
    assert weights[0] == weights[2] == MOST
    assert class_weights([0, 0], 0.5).isfinite().all()
