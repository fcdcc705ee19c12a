"""Benchmark g: representatives of ten clients at once, against SciPy one by one.

    python -m benchmarks.representatives

Ten clients with three digits each, the shared model of Wang et al. for 28x28 after a
few rounds of federated averaging, three pictures a client. Both start from the same
noise and minimise the same function (Eq. 8), computed by TensorFlow. SciPy's L-BFGS-B
runs with its own settings until it ends by itself, client after client; the project's
Adam makes the steps of its settings for all. What it finds must not be worse: on the
mean, a client's objective may be at most a thousandth above SciPy's.

SciPy spends many evaluations on line searches at the kinks of the objective, which
gain little. So the second figure, which has no bound, gives SciPy as many evaluations
as ours has, and says how far it comes with them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.optimize
import tensorflow as tf

from benchmarks import contexts, program
from benchmarks.figures import Bound, Figure, compare
from benchmarks.harness import Contender, interleave
from tff_leak.attacks.label_inference import infer_labels
from tff_leak.attacks.representatives import (
    Representatives,
    initial_images,
    objective,
    reconstruct,
)
from tff_leak.data import partition, sources, transforms
from tff_leak.models import classifiers
from tff_leak.models.batched_sgd import Batches, BatchSgd, train_on_batches
from tff_leak.models.network import Network, Weights

CLIENTS = 10
_BOUND = Bound(at_least=2.5)
_CLASSES, _PER_CLASS, _BATCH, _RATE, _ROUNDS = 3, 30, 10, 0.02, 5
# Of the objectives' mean ratio, above 1: the kinks leave the last digits to chance.
_TOLERANCE = 1e-3
_STEPS = _CLASSES * _PER_CLASS // _BATCH
_SEED = np.array([1, 2], np.int32)  # no tensor: it would settle the threads


class Problem(NamedTuple):
    """What a server has at the end of a round.

    Attributes:
      network: the shared model's.
      weights: that the round began with.
      updates: old minus new, each `[clients, ...]`.
      labels: int32 `[clients, n]`.
    """

    network: Network
    weights: Weights
    updates: list[tf.Tensor]
    labels: tf.Tensor


def measure(threads: int, seconds: float) -> Sequence[Figure]:
    """Returns both figures; see `program.Measure`."""
    contexts.in_process(threads)  # It settles TensorFlow's threads.
    problem = build_problem(classifiers.wang_mnist(), _ROUNDS)
    settings = Representatives(local_rate=_RATE, local_steps=_STEPS)
    ours, scipys, note = build(settings, problem)
    limited, limited_note = _with_as_many_evaluations(settings, problem, ours)
    times = interleave(
        {"SciPy": scipys, "batched": ours, "SciPy, as many evaluations": limited},
        seconds=seconds,
        min_rounds=3,
        warm_up=0,  # To compare objectives, all have run.
    )
    name = f"representatives of {CLIENTS} clients"
    return [
        compare("g", name, times, "SciPy", "batched", bound=_BOUND, note=note),
        compare(
            "g", name, times, "SciPy, as many evaluations", "batched", note=limited_note
        ),
    ]


def build_problem(network: Network, rounds: int) -> Problem:
    """Trains a federation on digits.

    Args:
      network: a classifier of square pictures, ten outputs.
      rounds: before the one that is attacked.
    """
    digits = sources.load("digits").train
    images = transforms.resize_to(digits.images, network.input_shape[0])
    clients = partition.random_classes(
        sources.Examples(images, digits.labels),
        clients=CLIENTS,
        classes_per_client=_CLASSES,
        per_class=_PER_CLASS,
        seed=0,
    )
    batches = [
        Batches(
            tf.constant(c.images.reshape(_STEPS, _BATCH, *c.images.shape[1:])),
            tf.constant(c.labels.reshape(_STEPS, _BATCH)),
            tf.fill([_STEPS], _BATCH),
        )
        for c in clients
    ]
    training = BatchSgd(_RATE)

    @tf.function
    def update(weights, data):
        trained = train_on_batches(training, network, weights, data).tensors
        return [a - b for a, b in zip(weights.trainable, trained, strict=True)]

    weights = network.initialize(_SEED)
    for done in range(rounds + 1):
        rows = [update(weights, data) for data in batches]
        updates = [tf.stack(part) for part in zip(*rows, strict=True)]
        if done < rounds:
            means = [tf.reduce_mean(part, axis=0) for part in updates]
            trainable = zip(weights.trainable, means, strict=True)
            weights = Weights([a - b for a, b in trainable], weights.statistics)
    return Problem(network, weights, updates, infer_labels(updates, _CLASSES))


def build(
    settings: Representatives, problem: Problem
) -> tuple[Contender, Contender, str]:
    """Builds both contenders and makes sure that ours finds what is no worse.

    Returns:
      Ours, SciPy's (each returns the objectives, `[clients]`), and a note on both.

    Raises:
      AssertionError: if ours finds worse, on the mean over the clients.
    """
    ours = _build_batched(settings, problem)
    evaluations: list[int] = []
    scipys = _build_scipy(settings, problem, {}, evaluations)
    ratios = ours() / scipys()
    if not ratios.mean() <= 1.0 + _TOLERANCE:
        raise AssertionError(
            f"the objectives are {ratios.mean():.4f} times SciPy's: expected them no "
            "worse"
        )
    note = (
        f"objective / SciPy's: mean {ratios.mean():.4f}, largest {ratios.max():.4f}; "
        f"{settings.iterations + 1} evaluations a client, SciPy "
        f"{np.mean(evaluations):.0f} on the mean"
    )
    return ours, scipys, note


def _with_as_many_evaluations(
    settings: Representatives, problem: Problem, ours: Contender
) -> tuple[Contender, str]:
    options = {"maxfun": settings.iterations + 1}
    scipys = _build_scipy(settings, problem, options, [])
    ratios = ours() / scipys()
    note = f"objective / SciPy's: mean {ratios.mean():.4f}, largest {ratios.max():.4f}"
    return scipys, note


def _build_batched(settings: Representatives, problem: Problem) -> Contender:
    @tf.function
    def attack(weights, updates, labels):
        return reconstruct(settings, problem.network, weights, updates, labels, _SEED)

    def run():
        found = attack(problem.weights, problem.updates, problem.labels)
        return found.objective.numpy()

    return run


def _build_scipy(
    settings: Representatives,
    problem: Problem,
    options: dict[str, int],
    evaluations: list[int],
) -> Contender:
    """SciPy's L-BFGS-B for client after client; counts go to `evaluations`."""
    images = int(problem.labels.shape[1])
    start = initial_images(settings, problem.network, images, _SEED).numpy()
    clients = [
        ([rows[place] for rows in problem.updates], problem.labels[place])
        for place in range(problem.labels.shape[0])
    ]

    @tf.function
    def value_and_gradient(point, update, labels):
        with tf.GradientTape() as tape:
            tape.watch(point)
            value = objective(
                settings, problem.network, problem.weights, update, point, labels
            )
        return value, tape.gradient(value, point)

    def minimum(update, labels):
        def function(x):
            point = tf.constant(x.reshape(start.shape), tf.float32)
            value, gradient = value_and_gradient(point, update, labels)
            return float(value), gradient.numpy().ravel().astype(np.float64)

        found = scipy.optimize.minimize(
            function,
            start.ravel().astype(np.float64),
            jac=True,
            method="L-BFGS-B",
            bounds=[(-1.0, 1.0)] * start.size,
            options=options,
        )
        evaluations.append(found.nfev)
        return found.fun

    return lambda: np.array([minimum(*client) for client in clients])


if __name__ == "__main__":
    program.run(measure)
