"""The harness, with a clock that tells what each contender is to take."""

import numpy as np
import pytest

from benchmarks import harness


class _Clock:
    """Time passes only when a contender says so."""

    def __init__(self):
        self.now = 0.0
        self.calls = []

    def __call__(self):
        return self.now

    def contender(self, name, durations):
        remaining = iter(durations)

        def call():
            self.calls.append(name)
            self.now += next(remaining)

        return call


def test_contenders_take_turns_and_warm_up_does_not_count():
    clock = _Clock()
    times = harness.interleave(
        {
            "a": clock.contender("a", [9.0, 1.0, 2.0, 3.0]),
            "b": clock.contender("b", [9.0, 4.0, 5.0, 6.0]),
        },
        seconds=0.0,
        min_rounds=3,
        clock=clock,
    )
    assert clock.calls == ["a", "b"] * 4
    assert times["a"].tolist() == [1.0, 2.0, 3.0]
    assert times["b"].tolist() == [4.0, 5.0, 6.0]


@pytest.mark.parametrize(
    ("seconds", "max_rounds", "expected"),
    [(0.0, 100, 2), (7.0, 100, 4), (1e9, 6, 6)],
)
def test_rounds_end_with_time_or_number(seconds, max_rounds, expected):
    clock = _Clock()
    times = harness.interleave(
        {"a": clock.contender("a", [2.0] * 100)},
        seconds=seconds,
        min_rounds=2,
        max_rounds=max_rounds,
        clock=clock,
    )
    assert len(times["a"]) == expected


def test_nothing_to_measure_is_an_error():
    with pytest.raises(ValueError, match="0 contenders"):
        harness.interleave({}, seconds=1.0)
    with pytest.raises(ValueError, match="3 and 2"):
        harness.interleave({"a": lambda: None}, seconds=1.0, min_rounds=3, max_rounds=2)


def test_ratio_is_that_of_medians():
    ratio = harness.ratio_of_medians(
        np.array([1.0, 2.0, 900.0]), np.array([4.0, 4.0, 4.0])
    )
    assert ratio.value == 0.5
    assert ratio.low <= 0.5 <= ratio.high


def test_interval_of_rounds_that_are_slow_together_is_narrow():
    load = np.array([1.0, 5.0, 1.0, 7.0, 2.0, 3.0])
    together = harness.ratio_of_medians(2.0 * load, load)
    assert together == (2.0, 2.0, 2.0)
    apart = harness.ratio_of_medians(2.0 * load, load[::-1].copy())
    assert apart.high - apart.low > 0.5


def test_ratio_wants_the_same_rounds():
    with pytest.raises(ValueError, match="same rounds"):
        harness.ratio_of_medians(np.ones(3), np.ones(4))


def test_medians():
    assert harness.medians({"a": np.array([3.0, 1.0, 2.0])}) == {"a": 2.0}
