"""A turn pair of Hitaj et al. as one would write it in TensorFlow alone.

The paper's CNN for 32x32 and its generator, an honest turn and the adversary's turn
after it, in one `tf.function`. Only two things are the project's: the random streams,
so that both do the same (the order of the examples, the latents), and `compiled_apart`
around the loops' bodies: what that gains is benchmark h, and must not be luck in this.
"""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tff_leak.models.loop_body import compiled_apart
from tff_leak.runtime.seeding import Role, derive

Tensors = list[tf.Tensor]


class Settings(NamedTuple):
    """What is done in a turn pair; the defaults are the benchmark's.

    Attributes:
      batch_size: of local SGD and of the generator's steps.
      learning_rate: of local SGD.
      decay: of it, in learning_rate / (1 + steps * decay).
      generator_steps: of the adversary.
      generator_rate: their learning rate.
      base_filters: of the generator.
      fakes: injected.
      target: class that the adversary wants.
      fake_class: label of the fakes.
    """

    batch_size: int = 64
    learning_rate: float = 1e-3
    decay: float = 1e-7
    generator_steps: int = 40
    generator_rate: float = 0.02
    base_filters: int = 32
    fakes: int = 500
    target: int = 3
    fake_class: int = 10


class PairState(NamedTuple):
    """What is kept from one turn pair to the next.

    Attributes:
      model: the shared model's weights.
      generator: the adversary's.
      steps: int32 `[2]`, minibatches so far of the honest one and the adversary.
      turn: int32, turn pairs so far.
    """

    model: Tensors
    generator: Tensors
    steps: tf.Tensor
    turn: tf.Tensor


def classify(weights: Tensors, images: tf.Tensor) -> tf.Tensor:
    """The paper's CNN: images `[n, 32, 32, 1]` to logits `[n, outputs]`."""
    kernel_1, bias_1, kernel_2, bias_2, hidden, hidden_bias, last, last_bias = weights
    x = tf.tanh(tf.nn.bias_add(tf.nn.conv2d(images, kernel_1, 1, "VALID"), bias_1))
    x = tf.nn.max_pool2d(x, 3, 3, "VALID")
    x = tf.tanh(tf.nn.bias_add(tf.nn.conv2d(x, kernel_2, 1, "VALID"), bias_2))
    x = tf.reshape(tf.nn.max_pool2d(x, 2, 2, "VALID"), [-1, 256])
    return tf.tanh(x @ hidden + hidden_bias) @ last + last_bias


def generate(weights: Tensors, latents: tf.Tensor, base_filters: int) -> tf.Tensor:
    """The generator, with the batch's statistics: `[n, 100]` to `[n, 32, 32, 1]`."""
    count = tf.shape(latents)[0]
    x = tf.reshape(latents, [-1, 1, 1, 100])
    for block, (size, factor) in enumerate([(4, 4), (8, 2), (16, 1)]):
        kernel, scale, offset = weights[3 * block : 3 * block + 3]
        stride, padding = (1, "VALID") if block == 0 else (2, "SAME")
        shape = [count, size, size, factor * base_filters]
        x = tf.nn.conv2d_transpose(x, kernel, shape, stride, padding)
        mean, variance = tf.nn.moments(x, [0, 1, 2])
        x = tf.nn.batch_normalization(x, mean, variance, offset, scale, 1e-5)
        x = tf.nn.relu(x)
    return tf.tanh(tf.nn.conv2d_transpose(x, weights[9], [count, 32, 32, 1], 2, "SAME"))


def build_turn_pair(
    settings: Settings,
    honest: tuple[tf.Tensor, tf.Tensor],
    adversary: tuple[tf.Tensor, tf.Tensor],
    seeds: tuple[tf.Tensor, tf.Tensor],
) -> Callable[[PairState], PairState]:
    """Returns the `tf.function` of a turn pair.

    Args:
      settings: see `Settings`.
      honest: images float32 `[n, 32, 32, 1]` and labels int32 `[n]`.
      adversary: the same of the adversary.
      seeds: int32 `[2]` each, of the honest participant and the adversary.
    """

    def loss_of(logits, labels):
        return tf.reduce_mean(
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        )

    def train(model, images, labels, steps, seed):
        count, size = tf.shape(labels)[0], settings.batch_size
        stream = derive(seed, Role.SHUFFLE, 0)
        order = tf.argsort(tf.random.stateless_uniform([count], stream))

        @compiled_apart
        def step(batch, model):
            chosen = order[batch * size : (batch + 1) * size]
            with tf.GradientTape() as tape:
                tape.watch(model)
                logits = classify(model, tf.gather(images, chosen))
                loss = loss_of(logits, tf.gather(labels, chosen))
            done = tf.cast(steps + batch, tf.float32)
            rate = settings.learning_rate / (1.0 + settings.decay * done)
            gradients = tape.gradient(loss, model)
            return [w - rate * g for w, g in zip(model, gradients, strict=True)]

        for batch in tf.range((count + size - 1) // size):
            model = step(batch, model)
        return model, steps + (count + size - 1) // size

    def attack(model, generator, seed):
        wanted = tf.fill([settings.batch_size], settings.target)

        @compiled_apart
        def step(index, generator):
            stream = derive(seed, Role.LATENT, index)
            latents = _latents(settings.batch_size, stream)
            with tf.GradientTape() as tape:
                tape.watch(generator)
                fakes = generate(generator, latents, settings.base_filters)
                loss = loss_of(classify(model, fakes), wanted)
            gradients = tape.gradient(loss, generator)
            return [
                w - settings.generator_rate * g
                for w, g in zip(generator, gradients, strict=True)
            ]

        for index in tf.range(settings.generator_steps):
            generator = step(index, generator)
        latents = _latents(settings.fakes, derive(seed, Role.FAKES))
        return generator, generate(generator, latents, settings.base_filters)

    @tf.function
    def turn_pair(state):
        model, generator, steps, turn = state
        first, second = (derive(seed, Role.TURN, turn) for seed in seeds)
        model, honest_steps = train(model, *honest, steps[0], first)
        generator, fakes = attack(model, generator, second)
        images = tf.concat([adversary[0], fakes], 0)
        fake_labels = tf.fill([settings.fakes], settings.fake_class)
        labels = tf.concat([adversary[1], fake_labels], 0)
        model, own_steps = train(model, images, labels, steps[1], second)
        return PairState(
            model, generator, tf.stack([honest_steps, own_steps]), turn + 1
        )

    return turn_pair


def _latents(count: int, seed: tf.Tensor) -> tf.Tensor:
    return tf.random.stateless_uniform([count, 100], seed, -1.0, 1.0)
