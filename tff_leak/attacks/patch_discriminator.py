"""A discriminator of patches: whether pictures are real looked at closely.

The patch discriminator of Isola et al., "Image-to-Image Translation with Conditional
Adversarial Networks" (CVPR 2017, section 3.2.2), after Li and Wand (ECCV 2016): it
judges every patch of a picture by itself and calls nothing real or fake by the whole.

For the malicious server (`Deviations.local_reality`) that is the point: strokes and
edges of the victim's pictures are those of any pictures, their layout is not. A
discriminator of whole pictures calls fake whatever is laid out as no auxiliary picture
is, which is what the victim's own are.

Pure TensorFlow steps.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from tff_leak.models.network import Network, Tensors, Weights
from tff_leak.models.training import binary_cross_entropy


class Patches(NamedTuple):
    """A patch discriminator as it is trained; both empty where there is none.

    Attributes:
      trainable: its weights.
      optimizer: the state of its optimiser.
    """

    trainable: Tensors
    optimizer: Any


def initial_patches(
    network: Network | None, optimizer: Any, seed: tf.Tensor
) -> Patches:
    """Returns it before its first step.

    Args:
      network: pictures to a map of logits `[n, h, w, 1]`, or None.
      optimizer: a `tff.learning.optimizers.Optimizer`.
      seed: int32 `[2]`.
    """
    if network is None:
        return Patches([], [])
    weights = list(network.initialize(seed).trainable)
    specs = [tf.TensorSpec(w.shape, w.dtype) for w in weights]
    state = tf.nest.map_structure(tf.convert_to_tensor, optimizer.initialize(specs))
    return Patches(weights, state)


def patches_loss(
    network: Network, trainable: Tensors, real: tf.Tensor, fake: tf.Tensor
) -> tf.Tensor:
    """Mean binary cross-entropy over all patches of real and of fake pictures.

    Args:
      network: see `initial_patches`.
      trainable: its weights.
      real: float32 `[n, H, W, C]`.
      fake: float32 `[m, H, W, C]`.

    Returns:
      float32, in nats: that of the real ones plus that of the fakes.
    """
    return binary_cross_entropy(
        _logits(network, trainable, real), 1.0
    ) + binary_cross_entropy(_logits(network, trainable, fake), 0.0)


def fooling_loss(network: Network, trainable: Tensors, fake: tf.Tensor) -> tf.Tensor:
    """What a generator descends on: the patches' cross-entropy as real, in nats."""
    return binary_cross_entropy(_logits(network, trainable, fake), 1.0)


def train_patches(
    network: Network,
    optimizer: Any,
    patches: Patches,
    real: tf.Tensor,
    fake: tf.Tensor,
) -> Patches:
    """One step on a batch; arguments as in `patches_loss`."""
    trainable = list(patches.trainable)
    with tf.GradientTape() as tape:
        tape.watch(trainable)
        loss = patches_loss(network, trainable, real, fake)
    state, trainable = optimizer.next(
        patches.optimizer, trainable, tape.gradient(loss, trainable)
    )
    return Patches(list(trainable), state)


def _logits(network: Network, trainable: Tensors, images: tf.Tensor) -> tf.Tensor:
    return network.outputs(Weights(list(trainable), []), images)
