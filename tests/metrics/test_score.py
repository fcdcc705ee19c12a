import math

import pytest

from tff_leak import errors
from tff_leak.metrics import score


def test_recovered_by_hand():
    # The feasibility runs of digits and MNIST.
    assert score.recovered(0.76, 0.51, 0.83) == pytest.approx(0.25 / 0.32)
    assert score.recovered(0.39, 0.32, 0.54) == pytest.approx(0.07 / 0.22)
    assert score.recovered(0.5, 0.5, 0.8) == 0
    assert score.recovered(0.2, 0.5, 0.8) == pytest.approx(-1)
    assert score.recovered(0.9, 0.5, 0.8) == pytest.approx(4 / 3)


def test_the_common_floor_leaves_out_control_and_grand_mean():
    found = {"blank": 0.2, "other_class_means": 0.5, "other_class_images": 0.4}
    found |= {"control": 0.9, "grand_mean": 0.8}
    assert score.common_floor(found) == 0.5
    assert score.common_floor(found | {"blank": 0.6}) == 0.6
    assert score.common_floor(found | {"other_class_images": 0.7}) == 0.7
    alone = dict.fromkeys(("other_class_means", "other_class_images"))
    assert score.common_floor(found | alone) == 0.2


def test_recovered_is_not_defined_without_a_range():
    assert score.recovered(0.6, 0.5, 0.5499) is None
    assert score.recovered(0.6, 0.5, 0.4) is None
    assert score.recovered(0.6, 0.5, 0.5625) == pytest.approx(1.6)


@pytest.mark.parametrize(
    "share, ratio, expected",
    [
        (0.8, 0.5, True),
        (0.79, 2.0, False),
        (1.0, 0.49, False),
        (1.0, None, None),
        (0.1, None, None),
    ],
)
def test_reached(share, ratio, expected):
    assert score.reached(share, ratio) is expected


def test_diversity_ratio():
    assert score.diversity_ratio(0.1, 0.4) == pytest.approx(0.25)
    assert score.diversity_ratio(None, 0.4) is None
    assert score.diversity_ratio(0.1, None) is None
    assert score.diversity_ratio(0.1, 0.0) is None


def test_confidence_interval_by_hand():
    # Mean 2, s = 1, t_{2, .975} = 4.302653 (tables).
    low, high = score.confidence_interval([1.0, 2.0, 3.0])
    half = 4.302653 / math.sqrt(3)
    assert (low, high) == pytest.approx((2 - half, 2 + half), abs=1e-6)
    # t_{1, .75} = 1; s / sqrt(2) = 1.
    found = score.confidence_interval([0.0, 2.0], level=0.5)
    assert found == pytest.approx((0, 2), abs=1e-9)


def test_confidence_interval_edges():
    assert score.confidence_interval([0.3]) is None
    assert score.confidence_interval([0.3, 0.3, 0.3]) == pytest.approx((0.3, 0.3))
    with pytest.raises(errors.InputError, match="0.95 is usual"):
        score.confidence_interval([1.0, 2.0], level=95)
    with pytest.raises(errors.InputError, match="not defined"):
        score.confidence_interval([1.0, math.nan])
