"""Both kinds of the pooling benchmark do the same work."""

import numpy as np

from benchmarks import pooling
from tff_leak.models.loop_body import compiled_apart


def test_both_kinds_train_the_same_model_and_each_call_starts_anew():
    (inlined,) = pooling.build(lambda body: body, graphs=1)
    first, second = pooling.build(compiled_apart, graphs=2)
    expected = inlined()
    for found in (first(), second(), first()):
        for weight, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(weight, wanted, atol=1e-6)
