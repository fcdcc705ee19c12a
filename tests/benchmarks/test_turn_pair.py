"""Both contenders of the turn pair, at a size that takes seconds."""

import pytest
import tensorflow_federated as tff

from benchmarks import turn_pair
from benchmarks.hand_written_turns import Settings


@pytest.fixture(autouse=True)
def _no_context_left():
    yield
    tff.test.set_no_default_context()


def test_both_contenders_do_the_same():
    settings = Settings(
        batch_size=16, generator_steps=3, base_filters=4, fakes=12, learning_rate=0.01
    )
    # Other tests have settled the number of threads.
    ours, hand_written, difference = turn_pair.build(None, settings, images=40)
    assert difference < 1e-2
    ours()
    hand_written()
