"""Federated averaging as one would write it in TensorFlow alone."""

from collections.abc import Callable, Sequence

import tensorflow as tf

from benchmarks.workloads import Workload
from tff_leak.models.network import Weights
from tff_leak.models.training import cross_entropy

Trainable = Sequence[tf.Tensor]


def build_round(
    work: Workload,
) -> Callable[[Trainable, Sequence[tf.data.Dataset]], list[tf.Tensor]]:
    """Returns a function from weights and clients' datasets to new weights.

    Clients train with SGD, one epoch over their batches; the mean of their models is
    weighted by their examples.
    """

    @tf.function
    def train(weights, dataset):
        trained = list(weights)
        examples = tf.constant(0.0)
        for inputs, labels in iter(dataset):
            with tf.GradientTape() as tape:
                tape.watch(trained)
                logits, _ = work.network.apply(Weights(trained, []), inputs, True)
                loss = cross_entropy(logits, labels)
            gradients = tape.gradient(loss, trained)
            trained = [
                w - work.learning_rate * g
                for w, g in zip(trained, gradients, strict=True)
            ]
            examples += tf.cast(tf.shape(labels)[0], tf.float32)
        return [examples * w for w in trained], examples

    @tf.function
    def add(sums, total, more, examples):
        return [a + b for a, b in zip(sums, more, strict=True)], total + examples

    @tf.function
    def divide(sums, total):
        return [a / total for a in sums]

    def run_round(weights, datasets):
        sums, total = train(weights, datasets[0])
        for dataset in datasets[1:]:
            sums, total = add(sums, total, *train(weights, dataset))
        return divide(sums, total)

    return run_round
