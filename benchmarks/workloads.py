"""Models and random data of the benchmarks."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.models import classifiers, layers
from tff_leak.models.network import Network, Weights, sequential
from tff_leak.models.training import cross_entropy
from tff_leak.runtime.in_process.data import dataset_options

CLASSES = 10


class Workload(NamedTuple):
    """One round of federated averaging, all clients with equally many examples.

    Attributes:
      name: for the table.
      network: logits over `CLASSES`.
      clients: in the cohort.
      examples: of each client.
      batch_size: of local SGD, one epoch.
      learning_rate: of local SGD; the server's is 1.
    """

    name: str
    network: Network
    clients: int
    examples: int
    batch_size: int
    learning_rate: float = 0.01


def paper_cnn() -> Workload:
    """10 clients x 300 examples, Hitaj et al.'s CNN for 32x32."""
    network = classifiers.hitaj_mnist(CLASSES)
    return Workload("CNN, 10 clients x 300", network, 10, 300, 20)


def logistic_regression() -> Workload:
    """100 clients x 20 examples, logistic regression on 28x28."""
    network = sequential(
        "logistic_regression", (28, 28, 1), [layers.reshape(), layers.dense(CLASSES)]
    )
    return Workload("logistic regression, 100 clients x 20", network, 100, 20, 10)


def large_mlp() -> Workload:
    """One client with one example, a perceptron of 987,210 parameters."""
    network = _mlp("large_mlp", 1000, 200)
    return Workload("MLP with 1M parameters, 1 client x 1", network, 1, 1, 1)


def small_mlp(clients: int) -> Workload:
    """Clients with one batch of 20 examples, a perceptron of 101,770 parameters.

    Small clients, but with updates of 0.4 MB: a cohort of 1000 whose rows were kept
    would be seen in the memory.
    """
    return Workload(f"MLP, {clients} clients", _mlp("mlp", 128), clients, 20, 20)


def pfl_cnn() -> Workload:
    """The cohort of pfl-research's CIFAR-10 benchmark: 50 clients x 50 examples.

    Two 3x3 convolutions to 32 and 64 planes, pooling by 2, 128 and 10 units; its
    dropout is left out on both sides.
    """
    network = sequential(
        "pfl_cnn",
        (32, 32, 3),
        [
            layers.conv2d(32, 3),
            layers.activation(tf.nn.relu),
            layers.conv2d(64, 3),
            layers.activation(tf.nn.relu),
            layers.max_pool(2),
            layers.reshape(),
            layers.dense(128),
            layers.activation(tf.nn.relu),
            layers.dense(CLASSES),
        ],
    )
    return Workload("CNN, 50 clients x 50", network, 50, 50, 10, 0.1)


def random_examples(
    shape: Sequence[int], count: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns images float32 `[count, *shape]` in [-1, 1], labels int32 `[count]`.

    Images are grey levels of 8 bits, as real ones are.
    """
    generator = np.random.default_rng(seed)
    levels = generator.integers(256, size=(count, *shape), dtype=np.uint8)
    labels = generator.integers(CLASSES, size=count).astype(np.int32)
    return levels.astype(np.float32) / 127.5 - 1.0, labels


def client_datasets(work: Workload, seed: int = 0) -> list[tf.data.Dataset]:
    """Returns each client's random data as batches."""
    return [
        tf.data.Dataset.from_tensor_slices(
            random_examples(work.network.input_shape, work.examples, seed + client)
        ).batch(work.batch_size)
        for client in range(work.clients)
    ]


def shared_datasets(work: Workload) -> list[tf.data.Dataset]:
    """Returns a dataset for each client, all of the same examples in memory."""
    examples = random_examples(work.network.input_shape, work.examples)
    images, labels = (tf.constant(part) for part in examples)
    return [
        tf.data.Dataset.from_tensor_slices((images, labels)).batch(work.batch_size)
        for _ in range(work.clients)
    ]


def tuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Returns the dataset with the options that suit many short ones."""
    return dataset.with_options(dataset_options())


def stock_fed_avg(
    work: Workload, *, iterator: bool, aggregator: Any = None
) -> tff.learning.templates.LearningProcess:
    """Returns TFF's own weighted federated averaging.

    Args:
      work: the workload.
      iterator: reads datasets by `LoopImplementation.DATASET_ITERATOR`, not by TFF's
        default, `DATASET_REDUCE`.
      aggregator: TFF's `model_aggregator`.
    """
    loops = tff.learning.LoopImplementation
    return tff.learning.algorithms.build_weighted_fed_avg(
        functional_model(work.network),
        tff.learning.optimizers.build_sgdm(work.learning_rate),
        tff.learning.optimizers.build_sgdm(1.0),
        model_aggregator=aggregator,
        loop_implementation=(
            loops.DATASET_ITERATOR if iterator else loops.DATASET_REDUCE
        ),
    )


def functional_model(network: Network) -> tff.learning.models.FunctionalModel:
    """Returns a network without running statistics as TFF's functional model."""
    drawn = network.initialize(tf.constant([0, 1]))

    @tf.function
    def predict(weights, inputs, training):
        return network.apply(Weights(list(weights[0]), []), inputs, training)[0]

    @tf.function
    def loss(output, label, sample_weight=None):
        del sample_weight
        return cross_entropy(output, label)

    return tff.learning.models.FunctionalModel(
        initial_weights=(tuple(w.numpy() for w in drawn.trainable), ()),
        predict_on_batch_fn=predict,
        loss_fn=loss,
        input_spec=(
            tf.TensorSpec([None, *network.input_shape]),
            tf.TensorSpec([None], tf.int32),
        ),
    )


def rounds(next_round: Callable, state: Any, *arguments: Any) -> Callable[[], Any]:
    """Returns a function that runs one more round at each call, and its new state."""

    def run():
        nonlocal state
        state = next_round(state, *arguments).state
        return state

    return run


def _mlp(name: str, *widths: int) -> Network:
    hidden = []
    for width in widths:
        hidden += [layers.dense(width), layers.activation(tf.nn.tanh)]
    return sequential(
        name, (28, 28, 1), [layers.reshape(), *hidden, layers.dense(CLASSES)]
    )
