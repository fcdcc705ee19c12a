"""What an adversary takes for a key: from which stream it is drawn."""

import numpy as np
import pytest

from experiments.key_guesses import first_key, parse_guesses
from tff_leak.defences.key_protection import (
    KeyDistribution,
    draw_keys,
    key_at_distance,
)
from tff_leak.runtime.seeding import Role, derive, root

KEY = np.array([0.6, 0.8, 0.0, 0.0], np.float32)


def _first(text, distribution=KeyDistribution.UNIFORM):
    (guess,) = parse_guesses([text])
    return first_key(guess, KEY, distribution, seed=5, adversary=2)


# Below the stream of whoever guesses, which its own keys are drawn from.
STREAM = derive(root(5), Role.PARTICIPANT, 2, Role.KEY_GUESS)


@pytest.mark.parametrize("text", ["random", "drift:3"])
@pytest.mark.parametrize("distribution", list(KeyDistribution))
def test_a_random_guess_is_drawn_as_keys_are(text, distribution):
    (expected,) = draw_keys(1, 4, STREAM, distribution)
    np.testing.assert_array_equal(_first(text, distribution), expected)


def test_a_guess_at_a_distance_has_the_same_stream():
    np.testing.assert_array_equal(_first("0.5"), key_at_distance(KEY, 0.5, STREAM))
