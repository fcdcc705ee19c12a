"""The generators of the papers, by name.

They map latent vectors to pictures in [-1, 1] (tanh). Batch normalisation follows
every layer but the last; without it the client GAN attack fails altogether, and
pictures are sampled with the batch's own statistics (`training=True`).
"""

import tensorflow as tf

from tff_leak.models import layers
from tff_leak.models.network import Network, sequential

LATENT_SIZE = 100  # Hitaj et al., section 8.3; Wang et al., section VI-A


def uniform_latents(count: int, seed: tf.Tensor) -> tf.Tensor:
    """Draws latents `[count, 100]`, uniform (Hitaj et al., section 8.3) in [-1, 1].

    The range is not in the text; it is that of the DCGAN code which the paper names.
    """
    return tf.random.stateless_uniform([count, LATENT_SIZE], seed, -1.0, 1.0)


def hitaj_mnist(base_filters: int = 32, channels: int = 1) -> Network:
    """Hitaj et al., section 8.3 and figure 16: 100 numbers to 32x32.

    Four transposed convolutions, batch normalisation and ReLU after all but the last,
    then tanh; weights drawn with deviation 0.02. Filters (`base_filters` times 4, 2,
    1), kernels 4x4 and strides are not in the text; they are DCGAN's.
    """
    return _dcgan("hitaj_mnist_generator", [4, 8, 16, 32], base_filters, channels)


def hitaj_att(base_filters: int = 32, channels: int = 1) -> Network:
    """Hitaj et al., section 8.3 and figure 18: 100 numbers to 64x64.

    As `hitaj_mnist` with a fifth transposed convolution; filters `base_filters` times
    8, 4, 2, 1 (not in the text).
    """
    return _dcgan("hitaj_att_generator", [4, 8, 16, 32, 64], base_filters, channels)


def wang_mnist(num_categories: int = 10, base_filters: int = 96) -> Network:
    """Wang et al., table I: noise, category and identity `[n, 102]` to 28x28.

    Embedding to 100, fully connected to 3x3x384, then 5x5 transposed convolutions of
    stride 2 to 7x7x192, 14x14x96 and 28x28x1. `base_filters` are the 96; the others
    grow with them.
    """
    maps = [(3, 4 * base_filters), (7, 2 * base_filters), (14, base_filters), (28, 1)]
    return _wang("wang_mnist_generator", num_categories, maps)


def wang_att(num_categories: int = 40, base_filters: int = 64) -> Network:
    """Wang et al., table II: noise, category and identity `[n, 102]` to 64x64.

    As `wang_mnist`, from 4x4x512 to 8x8x256, 16x16x128, 32x32x64 and 64x64x1. The last
    two depths are illegible in the text at hand and follow the halving before them.
    `base_filters` are the 64; the others grow with them.
    """
    maps = [(4 * 2**i, base_filters * 2 ** (3 - i)) for i in range(4)] + [(64, 1)]
    return _wang("wang_att_generator", num_categories, maps)


def _dcgan(name: str, sizes: list[int], base_filters: int, channels: int) -> Network:
    draw = layers.normal(0.0, 0.02)
    builders = [layers.reshape(1, 1, LATENT_SIZE)]
    for index, size in enumerate(sizes):
        first, last = index == 0, index == len(sizes) - 1
        filters = channels if last else base_filters * 2 ** (len(sizes) - 2 - index)
        builders.append(
            layers.conv2d_transpose(
                filters,
                4,
                output_size=size,
                stride=1 if first else 2,
                padding="VALID" if first else "SAME",
                initializer=draw,
            )
        )
        if last:
            builders.append(layers.activation(tf.nn.tanh))
        else:
            # Scales drawn around one: DCGAN's, as "weights" of section 8.3 cannot
            # mean scales around zero.
            builders.append(layers.batch_norm(scale=layers.normal(1.0, 0.02)))
            builders.append(layers.activation(tf.nn.relu))
    return sequential(name, (LATENT_SIZE,), builders)


def _wang(name: str, num_categories: int, maps: list[tuple[int, int]]) -> Network:
    draw = layers.normal(0.0, 0.02)  # not in the text
    (first_size, first_filters), rest = maps[0], maps[1:]
    builders = [
        layers.conditional_embedding(num_categories, LATENT_SIZE),
        layers.dense(first_size * first_size * first_filters, initializer=draw),
        layers.reshape(first_size, first_size, first_filters),
        layers.batch_norm(scale=layers.normal(1.0, 0.02)),
        layers.activation(tf.nn.relu),
    ]
    size = first_size
    for next_size, filters in rest:
        builders.append(
            layers.conv2d_transpose(
                filters,
                5,
                output_size=next_size,
                stride=2,
                # 3 to 7 is not a doubling: one row and column of padding gives it.
                padding="SAME" if next_size == 2 * size else 1,
                initializer=draw,
            )
        )
        if (next_size, filters) == rest[-1]:
            builders.append(layers.activation(tf.nn.tanh))
        else:
            builders.append(layers.batch_norm(scale=layers.normal(1.0, 0.02)))
            builders.append(layers.activation(tf.nn.relu))
        size = next_size
    return sequential(name, (LATENT_SIZE + 2,), builders)
