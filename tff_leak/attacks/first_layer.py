"""A client's one example, exactly, from its update of a first dense layer.

Aono et al., "Privacy-Preserving Deep Learning via Additively Homomorphic Encryption"
(IEEE TIFS 2018), section 3: for a layer z = W x + b at the network's input, the
gradients of one example are

    dL/dW = (dL/dz) x^T,    dL/db = dL/dz,

so x is any row of dL/dW over the same entry of dL/db. The paper takes a row; here all
rows are used, by least squares: with the kernel `[d, u]` as networks of this project
have it,

    x = (dW db) / (db . db),

which is the same where the update is one example's and weighs rows by how much they
know of it where noise was added.

It holds for every number of local steps of plain SGD on that one example, too: the
sums of both gradients over the steps have the ratio x. With several examples the rows'
ratios differ, and what comes out is a mixture of them, the more so the more units they
share; `misfit` tells one from the other without knowing the data.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tff_leak.errors import InputError


class FirstLayer(NamedTuple):
    """What the updates of the first layer show.

    Attributes:
      examples: float32 `[n, d]`, flattened inputs; zeros where nothing is known.
      misfit: float32 `[n]` in [0, 1]: the share of the kernel's update, by its norm,
        that is not one example's; about 0: `examples` is exact. 1 where nothing is
        known: the bias was not changed, for instance as no unit was active.
    """

    examples: tf.Tensor
    misfit: tf.Tensor


def reconstruct_inputs(kernels: tf.Tensor, biases: tf.Tensor) -> FirstLayer:
    """Computes each client's input from its update of the first dense layer.

    Args:
      kernels: float32 `[n, d, u]`, clients' updates (or gradients) of the kernel, of
        either sign.
      biases: float32 `[n, u]`, the same of the bias, with the same sign and scale.

    Raises:
      InputError: if the shapes are not those of n dense layers.
    """
    kernels = tf.convert_to_tensor(kernels, tf.float32)
    biases = tf.convert_to_tensor(biases, tf.float32)
    _check_shapes(kernels.shape, biases.shape)
    squares = tf.reduce_sum(biases**2, axis=1)
    examples = tf.math.divide_no_nan(
        tf.einsum("ndu,nu->nd", kernels, biases), squares[:, tf.newaxis]
    )
    explained = tf.einsum("nd,nu->ndu", examples, biases)
    misfit = tf.math.divide_no_nan(
        tf.norm(kernels - explained, axis=(1, 2)), tf.norm(kernels, axis=(1, 2))
    )
    return FirstLayer(examples, tf.where(squares > 0, misfit, tf.ones_like(misfit)))


def _check_shapes(kernels: tf.TensorShape, biases: tf.TensorShape) -> None:
    fits = kernels.rank == 3 and biases.rank == 2
    if not fits or not biases.is_compatible_with([kernels[0], kernels[2]]):
        raise InputError(
            f"updates have shapes {_text(kernels)} and {_text(biases)}: expected a "
            "dense layer's kernel [clients, inputs, units] and bias [clients, units]; "
            "give the first layer's"
        )


def _text(shape: tf.TensorShape) -> str:
    return str(np.array(shape.as_list()).tolist()) if shape.rank is not None else "?"
