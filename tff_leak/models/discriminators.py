"""The multi-task discriminators of mGAN-AI, by name.

Wang et al., section VI-A: discriminator and shared model have the same structure
except for the output layer, whose entries are reality, the categories, and identity.
"""

from typing import NamedTuple

import tensorflow as tf

from tff_leak.models import classifiers, layers
from tff_leak.models.network import Network, Shape, sequential


class Heads(NamedTuple):
    """Logits of the three tasks: `[n]`, `[n, categories]`, `[n]`."""

    reality: tf.Tensor
    category: tf.Tensor
    identity: tf.Tensor


def wang_mnist_multitask(num_categories: int = 10, planes: int = 32) -> Network:
    """Table I with outputs (1, 10, 1): logits `[n, num_categories + 2]`."""
    return classifiers.wang_mnist(num_categories + 2, planes)


def wang_att_multitask(num_categories: int = 40, planes: int = 32) -> Network:
    """Table II with outputs (1, 40, 1): logits `[n, num_categories + 2]`."""
    return classifiers.wang_att(num_categories + 2, planes)


def patches(image_shape: Shape, planes: int = 32) -> Network:
    """Judges every patch of 12x12 pixels: a map of logits `[n, h, w, 1]`.

    Convolutions of 4x4 with stride 2 and twice 3x3 to `planes` and twice as many, then
    1x1; not padded, so that no place in the picture differs from another. Isola et al.
    (CVPR 2017) give the principle, not these sizes: 12 pixels hold a bend of a digit's
    stroke and no digit.
    """
    return sequential(
        "patches",
        image_shape,
        [
            layers.conv2d(planes, 4, stride=2),
            layers.activation(classifiers.leaky_relu),
            layers.conv2d(2 * planes, 3),
            layers.activation(classifiers.leaky_relu),
            layers.conv2d(2 * planes, 3),
            layers.activation(classifiers.leaky_relu),
            layers.conv2d(1, 1),
        ],
    )


def heads(outputs: tf.Tensor) -> Heads:
    """Splits logits `[n, categories + 2]` into the three tasks'."""
    return Heads(outputs[:, 0], outputs[:, 1:-1], outputs[:, -1])
