"""Benchmark h: SGD in a loop whose body is compiled apart from it, against inlined.

    python -m benchmarks.pooling

Ten steps of SGD on the paper's CNN for 32x32, which pools twice, batch 64, in a
`tf.while_loop`. Whether oneDNN's gradient of the pooling is used in a loop whose body
is inlined is a matter of luck, anew for each graph (`tff_leak/models/loop_body.py`).
So each kind is traced eight times, and beside the ratio of both kinds' sums stand
those of the slowest graph and the fastest one within each. All must come to the same
weights first.
"""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from benchmarks import contexts, program
from benchmarks.figures import Bound, Figure, check_equal, compare
from benchmarks.harness import Contender, Times, interleave, medians
from tff_leak.models import classifiers
from tff_leak.models.loop_body import compiled_apart
from tff_leak.models.network import Tensors, Weights
from tff_leak.models.training import cross_entropy

GRAPHS = 8
# Graphs of one kind do the same work; what is left is the machine's noise.
_SAME_SPEED = Bound(at_most=1.25)
_STEPS, _BATCH, _RATE, _OUTPUTS = 10, 64, 0.01, 11
_TOLERANCE = 1e-5
_SEED = np.array([1, 2], np.int32)  # no tensor: it would settle the threads

Wrap = Callable[[Callable], Callable]


def measure(threads: int, seconds: float) -> Sequence[Figure]:
    """Returns the three figures; see `program.Measure`."""
    contexts.in_process(threads)  # It settles TensorFlow's threads.
    kinds = {"inlined": build(lambda body: body), "apart": build(compiled_apart)}
    (reached, *others) = [call() for calls in kinds.values() for call in calls]
    for weights in others:
        check_equal("the trained model", weights, reached, _TOLERANCE)
    contenders = {
        f"{kind} {number}": call
        for kind, calls in kinds.items()
        for number, call in enumerate(calls)
    }
    times = interleave(contenders, seconds=seconds)
    sums = {kind: sum(_of(kind, times).values()) for kind in kinds}
    name = f"{_STEPS} steps of SGD with pooling"
    return [
        compare("h", f"{name}, {GRAPHS} graphs", sums, "inlined", "apart"),
        _spread(name, _of("inlined", times), None),
        _spread(name, _of("apart", times), _SAME_SPEED),
    ]


def build(wrap: Wrap, graphs: int = GRAPHS) -> list[Contender]:
    """Traces the same training several times.

    Args:
      wrap: what is done with the loop's body.
      graphs: how many times.

    Returns:
      Functions that train and return the model's weights.
    """
    network = classifiers.hitaj_mnist(_OUTPUTS)
    shape = [_STEPS, _BATCH]
    images = tf.random.stateless_uniform([*shape, 32, 32, 1], _SEED, -1.0, 1.0)
    labels = tf.random.stateless_uniform(shape, _SEED, 0, _OUTPUTS, tf.int32)
    start = network.initialize(_SEED).trainable

    def step(index: tf.Tensor, trainable: Tensors) -> Tensors:
        with tf.GradientTape() as tape:
            tape.watch(trainable)
            logits, _ = network.apply(Weights(trainable, []), images[index], True)
            loss = cross_entropy(logits, labels[index])
        gradients = tape.gradient(loss, trainable)
        return [w - _RATE * g for w, g in zip(trainable, gradients, strict=True)]

    def contender() -> Contender:
        body = wrap(step)

        @tf.function(autograph=False)
        def train(trainable):
            _, trained = tf.while_loop(
                lambda index, _: index < _STEPS,
                lambda index, state: (index + 1, body(index, state)),
                (tf.constant(0), trainable),
                maximum_iterations=_STEPS,
            )
            return trained

        return lambda: [weight.numpy() for weight in train(start)]

    return [contender() for _ in range(graphs)]


def _of(kind: str, times: Times) -> Times:
    return {name: values for name, values in times.items() if name.startswith(kind)}


def _spread(name: str, times: Times, bound: Bound | None) -> Figure:
    """The slowest graph's median over the fastest one's."""
    ranked = sorted(times, key=medians(times).__getitem__)
    return compare("h", name, times, ranked[-1], ranked[0], bound=bound)


if __name__ == "__main__":
    program.run(measure)
