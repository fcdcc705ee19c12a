"""Both contenders of the representatives, at a size that takes seconds."""

import pytest
import tensorflow as tf

from benchmarks import representatives
from benchmarks.representatives import Representatives, build, build_problem
from tff_leak.models import classifiers, layers
from tff_leak.models.network import sequential

NETWORK = sequential(
    "small",
    (8, 8, 1),
    [
        layers.conv2d(4, 3, stride=2, padding="SAME"),
        layers.activation(classifiers.leaky_relu),
        layers.reshape(),
        layers.dense(10),
    ],
)


@pytest.fixture(scope="module")
def problem():
    return build_problem(NETWORK, rounds=1)


def test_both_contenders_solve_the_same_problem(problem):
    assert problem.labels.shape == (representatives.CLIENTS, 3)
    settings = Representatives(local_rate=0.02, local_steps=9, iterations=60)
    ours, scipys, note = build(settings, problem)
    assert ours().shape == scipys().shape == (representatives.CLIENTS,)
    assert "61 evaluations a client" in note


def test_a_worse_objective_is_no_comparison(problem):
    settings = Representatives(local_rate=0.02, local_steps=9, iterations=1)
    few = problem._replace(
        updates=[update[:2] for update in problem.updates],
        labels=tf.constant(problem.labels[:2]),
    )
    with pytest.raises(AssertionError, match="times SciPy's: expected them no worse"):
        build(settings, few)
