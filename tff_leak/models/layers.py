"""The layers of the papers' networks, for `network.sequential`.

Each function returns a builder: from the shape of the layer's input (one example,
no batch) to a `Layer`. Pictures are `[n, H, W, C]`.
"""

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tff_leak.models.network import Layer, Parameter, Shape

Builder = Callable[[Shape], Layer]
Initializer = Callable[[Shape, tf.Tensor], tf.Tensor]
# Mean and variance of each feature, [size] both.
Moments = tuple[np.ndarray, np.ndarray]


def uniform_fan_in(fan_in: int) -> Initializer:
    """Torch7's default: uniform in +-1/sqrt(fan_in), weights and biases alike."""
    bound = 1.0 / math.sqrt(fan_in)
    return lambda shape, seed: tf.random.stateless_uniform(shape, seed, -bound, bound)


def normal(mean: float, deviation: float) -> Initializer:
    """Normal with the given mean and standard deviation."""
    return lambda shape, seed: tf.random.stateless_normal(shape, seed, mean, deviation)


def zeros(shape: Shape, seed: tf.Tensor) -> tf.Tensor:
    """All zero, whatever the seed."""
    del seed
    return tf.zeros(shape)


def ones(shape: Shape, seed: tf.Tensor) -> tf.Tensor:
    """All one, whatever the seed."""
    del seed
    return tf.ones(shape)


def conv2d(
    filters: int,
    kernel: int,
    *,
    stride: int = 1,
    padding: str = "VALID",
    initializer: Initializer | None = None,
) -> Builder:
    """Convolution with bias; `initializer` None is Torch7's default for both."""

    def build(shape: Shape) -> Layer:
        height, width, channels = shape
        drop = kernel - 1 if padding == "VALID" else 0
        output = (
            math.ceil((height - drop) / stride),
            math.ceil((width - drop) / stride),
            filters,
        )
        default = uniform_fan_in(kernel * kernel * channels)

        def apply(trainable, statistics, inputs, training):
            del training
            outputs = tf.nn.conv2d(inputs, trainable[0], stride, padding)
            return tf.nn.bias_add(outputs, trainable[1]), statistics

        weight = Parameter((kernel, kernel, channels, filters), initializer or default)
        bias = Parameter((filters,), zeros if initializer else default)
        return Layer(output, (weight, bias), (), apply)

    return build


def conv2d_transpose(
    filters: int,
    kernel: int,
    *,
    output_size: int,
    stride: int = 1,
    padding: str | int = "SAME",
    initializer: Initializer,
) -> Builder:
    """Transposed convolution without bias to `[n, output_size, output_size, filters]`.

    `padding` is that of the convolution it transposes: "SAME", "VALID", or a number
    of rows and columns on each side.

    Batch normalisation follows in every generator but after the last layer, whose
    tanh needs no bias to reach -1 (not in the texts).
    """

    def build(shape: Shape) -> Layer:
        channels = shape[2]
        output = (output_size, output_size, filters)
        sides = padding
        if isinstance(padding, int):
            sides = [[0, 0], [padding, padding], [padding, padding], [0, 0]]

        def apply(trainable, statistics, inputs, training):
            del training
            full = [tf.shape(inputs)[0], *output]
            outputs = tf.nn.conv2d_transpose(inputs, trainable[0], full, stride, sides)
            return tf.ensure_shape(outputs, [None, *output]), statistics

        weight = Parameter((kernel, kernel, filters, channels), initializer)
        return Layer(output, (weight,), (), apply)

    return build


def dense(units: int, *, initializer: Initializer | None = None) -> Builder:
    """Fully connected with bias; `initializer` None is Torch7's default for both."""

    def build(shape: Shape) -> Layer:
        (size,) = shape
        default = uniform_fan_in(size)

        def apply(trainable, statistics, inputs, training):
            del training
            return inputs @ trainable[0] + trainable[1], statistics

        weight = Parameter((size, units), initializer or default)
        bias = Parameter((units,), zeros if initializer else default)
        return Layer((units,), (weight, bias), (), apply)

    return build


def fixed_dense(units: int, *, seed: np.ndarray) -> Builder:
    """Fully connected without bias, drawn once and never trained: a constant.

    Weights are normal with deviation 1/sqrt(inputs), which keeps the inputs' scale.

    Args:
      units: numbers of the output.
      seed: int32 `[2]`; it alone decides the weights, whatever a network is
        initialised with.
    """

    def build(shape: Shape) -> Layer:
        (size,) = shape

        def draw(shape, _):
            return tf.random.stateless_normal(shape, seed, 0.0, 1.0 / math.sqrt(size))

        def apply(trainable, statistics, inputs, training):
            del trainable, training
            return inputs @ statistics[0], statistics

        return Layer((units,), (), (Parameter((size, units), draw),), apply)

    return build


def batch_norm(
    *, scale: Initializer, epsilon: float = 1e-5, momentum: float = 0.9
) -> Builder:
    """Batch normalisation over all axes but the last; its constants are Torch7's.

    Training uses the batch's own mean and variance and moves the running ones by
    `1 - momentum`; inference uses the running ones.
    """

    def build(shape: Shape) -> Layer:
        channels = shape[-1:]

        def apply(trainable, statistics, inputs, training):
            mean, variance = statistics
            if training:
                axes = list(range(len(inputs.shape) - 1))
                mean, variance = tf.nn.moments(inputs, axes)
                statistics = [
                    momentum * old + (1 - momentum) * new
                    for old, new in zip(statistics, (mean, variance), strict=True)
                ]
            outputs = tf.nn.batch_normalization(
                inputs, mean, variance, trainable[1], trainable[0], epsilon
            )
            return outputs, statistics

        trainable = (Parameter(channels, scale), Parameter(channels, zeros))
        running = (Parameter(channels, zeros), Parameter(channels, ones))
        return Layer(shape, trainable, running, apply, updates_statistics=True)

    return build


def standardise(
    axis: int, *, epsilon: float = 1e-5, moments: Moments | None = None
) -> Builder:
    """Normalisation of vectors without running statistics, with scale and offset.

    Outputs are (input - mean) / sqrt(variance + epsilon) * scale + offset. Mean and
    variance are those of what is given, at inference as in training, so that nothing
    but the trainable scale (1 at first) and offset (0), one each a feature, is kept.

    Args:
      axis: 0: over the batch, for each feature (Ioffe and Szegedy's batch
        normalisation; an output then depends on the examples beside it); 1: over the
        features, for each example (Ulyanov et al.'s instance normalisation, for a
        vector, which has no places: all its numbers are taken together).
      epsilon: Torch7's.
      moments: in place of those of what is given: mean and variance, float32
        `[size]` each. With them an output depends on its own example alone.
    """

    def build(shape: Shape) -> Layer:
        (size,) = shape

        def apply(trainable, statistics, inputs, training):
            del training
            mean, variance = moments or tf.nn.moments(inputs, [axis], keepdims=True)
            outputs = tf.nn.batch_normalization(
                inputs, mean, variance, trainable[1], trainable[0], epsilon
            )
            return outputs, statistics

        trainable = (Parameter((size,), ones), Parameter((size,), zeros))
        return Layer(shape, trainable, (), apply)

    return build


def unit_length(*, epsilon: float = 1e-12) -> Builder:
    """Divides vectors by their l2 norm, or by sqrt(epsilon) if that is larger."""

    def build(shape: Shape) -> Layer:
        def apply(trainable, statistics, inputs, training):
            del trainable, training
            return tf.math.l2_normalize(inputs, axis=-1, epsilon=epsilon), statistics

        return Layer(shape, (), (), apply)

    return build


def max_pool(size: int) -> Builder:
    """Maximum over `size` x `size`, stride `size`; a remainder is dropped (Torch7)."""

    def build(shape: Shape) -> Layer:
        height, width, channels = shape
        output = (height // size, width // size, channels)

        def apply(trainable, statistics, inputs, training):
            del trainable, training
            return tf.nn.max_pool2d(inputs, size, size, "VALID"), statistics

        return Layer(output, (), (), apply)

    return build


def reshape(*output: int) -> Builder:
    """Gives each example the shape `output`; `reshape()` with no sizes flattens."""

    def build(shape: Shape) -> Layer:
        target = output or (math.prod(shape),)

        def apply(trainable, statistics, inputs, training):
            del trainable, training
            return tf.reshape(inputs, [-1, *target]), statistics

        return Layer(target, (), (), apply)

    return build


def activation(function: Callable[[tf.Tensor], tf.Tensor]) -> Builder:
    """An element-wise function, e.g. `tf.nn.tanh`."""

    def build(shape: Shape) -> Layer:
        def apply(trainable, statistics, inputs, training):
            del trainable, training
            return function(inputs), statistics

        return Layer(shape, (), (), apply)

    return build


def conditional_embedding(num_categories: int, size: int) -> Builder:
    """Joins noise with a category and an identity, for conditional generators.

    The input is `[n, size + 2]`: noise, the category's index, the identity (0 or 1).
    The output `[n, size]` is the noise plus the embeddings of both labels. Wang et al.,
    section VI-A, put noise and labels behind one another and let an "embedding layer"
    squeeze them to `size`; a linear map of that is such a sum. (With the product of
    the three, which is another common way, .30 of the server attack's pictures were
    of the category asked for after 280 steps, with the sum all after 240; one run each,
    at half width.)
    """

    def build(shape: Shape) -> Layer:
        if shape != (size + 2,):
            raise ValueError(f"Expected inputs of shape {(size + 2,)}, found {shape}.")

        def apply(trainable, statistics, inputs, training):
            del training
            labels = tf.cast(tf.round(inputs[:, size:]), tf.int32)
            category = tf.gather(trainable[0], labels[:, 0])
            identity = tf.gather(trainable[1], labels[:, 1])
            return inputs[:, :size] + category + identity, statistics

        draw = normal(0.0, 0.5)  # about the noise's own deviation, 0.58
        tables = (Parameter((num_categories, size), draw), Parameter((2, size), draw))
        return Layer((size,), tables, (), apply)

    return build
