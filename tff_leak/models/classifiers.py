"""The classifiers of the papers, by name.

All take pictures in [-1, 1] and return logits; the softmax is in the loss. What a
paper's text does not give is marked "not in the text": the figures of Hitaj et al.'s
appendix are known by their captions only.
"""

import tensorflow as tf

from tff_leak.models import layers
from tff_leak.models.network import Network, sequential


def hitaj_mnist(num_outputs: int = 11, channels: int = 1) -> Network:
    """Hitaj et al., section 8.3 and figure 15: the CNN for MNIST, 32x32.

    Conv 5x5 to 32 and to 64 planes, each followed by tanh and max pooling, a
    flattening to 256, a linear layer to 200 with tanh, and a linear layer to
    `num_outputs` (10 digits and the class of the fakes).

    Pool sizes 3 and 2 and unpadded convolutions are not in the text; they are the
    ones of Torch7's MNIST demo and the way to reach 256. Initial values are Torch7's
    default (not in the text).
    """
    return sequential(
        "hitaj_mnist",
        (32, 32, channels),
        [
            layers.conv2d(32, 5),
            layers.activation(tf.nn.tanh),
            layers.max_pool(3),  # not in the text
            layers.conv2d(64, 5),
            layers.activation(tf.nn.tanh),
            layers.max_pool(2),  # not in the text
            layers.reshape(),
            layers.dense(200),
            layers.activation(tf.nn.tanh),
            layers.dense(num_outputs),
        ],
    )


def hitaj_att(num_outputs: int = 41, channels: int = 1) -> Network:
    """Hitaj et al., section 8.3 and figure 17: the CNN for AT&T faces, 64x64.

    Three convolutions with tanh, each followed by max pooling, then fully connected
    layers to 40 people and the class of the fakes. Planes, kernels, pool sizes and
    the width of the hidden layer are not in the text.
    """
    return sequential(
        "hitaj_att",
        (64, 64, channels),
        [
            layers.conv2d(32, 5),  # 32 planes, 5x5: not in the text
            layers.activation(tf.nn.tanh),
            layers.max_pool(3),  # not in the text
            layers.conv2d(64, 5),  # not in the text
            layers.activation(tf.nn.tanh),
            layers.max_pool(2),  # not in the text
            layers.conv2d(128, 5),  # not in the text
            layers.activation(tf.nn.tanh),
            layers.max_pool(2),  # not in the text
            layers.reshape(),
            layers.dense(200),  # not in the text
            layers.activation(tf.nn.tanh),
            layers.dense(num_outputs),
        ],
    )


def wang_mnist(num_outputs: int = 10, planes: int = 32) -> Network:
    """Wang et al., table I: the shared model for MNIST, 28x28x1.

    3x3 convolutions with strides 2, 1, 2, 1 to 32, 64, 128 and 256 planes; the
    table's "FC 12,544" is the flattening of 7x7x256. With `num_outputs` = classes + 2
    it is the discriminator (`discriminators.py`). The slope of LReLU, "SAME" padding
    and the initial values are not in the text. `planes` are those of the first
    convolution, 32 in the table; the others grow with them.
    """
    strides_and_planes = [
        (2, planes),
        (1, 2 * planes),
        (2, 4 * planes),
        (1, 8 * planes),
    ]
    return _wang("wang_mnist", 28, strides_and_planes, num_outputs)


def wang_att(num_outputs: int = 40, planes: int = 32) -> Network:
    """Wang et al., table II: the shared model for AT&T, 64x64x1.

    3x3 convolutions to 32, 64, 128 and 256 planes; the strides 2, 1, 2, 2 follow from
    the map sizes 32, 32, 16 and 8, as the table's "FC 16,384" is the flattening of
    8x8x256. Slope, padding, initial values and `planes` as in `wang_mnist`.
    """
    strides_and_planes = [
        (2, planes),
        (1, 2 * planes),
        (2, 4 * planes),
        (2, 8 * planes),
    ]
    return _wang("wang_att", 64, strides_and_planes, num_outputs)


def _wang(
    name: str, size: int, strides_and_planes: list[tuple[int, int]], num_outputs: int
) -> Network:
    builders = []
    for stride, planes in strides_and_planes:
        builders += [
            layers.conv2d(planes, 3, stride=stride, padding="SAME"),
            layers.activation(leaky_relu),
        ]
    builders += [layers.reshape(), layers.dense(num_outputs)]
    return sequential(name, (size, size, 1), builders)


def leaky_relu(inputs: tf.Tensor) -> tf.Tensor:
    """LReLU with slope 0.2, DCGAN's (the slope is not in the text of Wang et al.)."""
    return tf.nn.leaky_relu(inputs, 0.2)


def zhu_lenet(
    num_outputs: int, image_shape: tuple[int, int, int], planes: int = 12
) -> Network:
    """Zhu et al., "Deep Leakage from Gradients" (NeurIPS 2019), section 4.1: a LeNet.

    Three 5x5 convolutions with strides 2, 2 and 1 in place of pooling ("SAME" padding)
    and a linear layer: 768 inputs to it for 32x32. Smooth, so that gradients can be
    inverted with second derivatives. The paper's activations are sigmoids behind
    weights in +-1/2, with which it hardly trains; tanh and Torch7's initial values
    here. Sizes are those of the authors' code (not in the text).
    """
    builders = []
    for stride in (2, 2, 1):
        builders += [
            layers.conv2d(planes, 5, stride=stride, padding="SAME"),
            layers.activation(tf.nn.tanh),
        ]
    builders += [layers.reshape(), layers.dense(num_outputs)]
    return sequential("zhu_lenet", image_shape, builders)


def mlp(
    num_outputs: int, image_shape: tuple[int, int, int], hidden: int = 200
) -> Network:
    """A perceptron with one hidden layer of tanh units.

    Hitaj et al., section 9.1, say that model inversion works on "MLP networks"; sizes
    are not in the text.
    """
    return sequential(
        "mlp",
        image_shape,
        [
            layers.reshape(),
            layers.dense(hidden),  # not in the text
            layers.activation(tf.nn.tanh),  # not in the text
            layers.dense(num_outputs),
        ],
    )
