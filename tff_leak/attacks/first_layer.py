"""A client's one example, exactly, from its update of a first dense layer.

Aono et al., "Privacy-Preserving Deep Learning via Additively Homomorphic Encryption"
(IEEE TIFS 2018), section 3: for a layer z = W x + b at the network's input, the
gradients of one example are

    dL/dW = (dL/dz) x^T,    dL/db = dL/dz,

so x is any row of dL/dW over the same entry of dL/db. The paper takes a row; here all
are used. With the kernel `[d, u]` as networks of this project have it, dW and db below
one another are of rank one, (x, 1) s^T. Of its best approximation of rank one, by total
least squares, v is the direction of s, and

    x = (dW v) / (db . v),

which is the same where the update is one example's. Where clients add noise (local or
record-level DP) it falls on db as well as on dW, and the much larger dW tells what v
is; least squares on a noisy db shrink x to nothing long before. What is left of it
in x is known from the rest of the matrix, and `denoise` takes it out as pictures are
denoised, by total variation.

It holds for every number of local steps of plain SGD on that one example, too: the
sums of both gradients over the steps have the ratio x. And so has the sum of several
rounds' updates by a client that trains on that example in each: the slopes s keep their
signs for the most part and add up, while noise that is drawn anew each round does not.
With several examples the rows'
ratios differ, and what comes out is a mixture of them, the more so the more units they
share; `misfit` tells one from the other without knowing the data.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from skimage.restoration import denoise_tv_chambolle

from tff_leak.errors import InputError

SCALE_KNOWN = 0.05
"""Noise up to which the bias gives the scale of an input: it is its relative error."""


class FirstLayer(NamedTuple):
    """What the updates of the first layer show.

    Attributes:
      examples: float32 `[n, d]`, flattened inputs; zeros where nothing is known.
      misfit: float32 `[n]` in [0, 1]: the share of the kernel's update, by its norm,
        that is not one example's; about 0: `examples` is exact. 1 where nothing is
        known: the bias was not changed, for instance as no unit was active.
      noise: float32 `[n]`, the standard deviation of an entry of `examples` by noise of
        the same size on each entry of the updates; 0 where nothing is known.
    """

    examples: tf.Tensor
    misfit: tf.Tensor
    noise: tf.Tensor


def reconstruct_inputs(kernels: tf.Tensor, biases: tf.Tensor) -> FirstLayer:
    """Computes each client's input from its update of the first dense layer.

    Of an update that is not finite, or gives no finite input, nothing is known.

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
    updates = tf.concat([kernels, biases[:, tf.newaxis]], axis=1)
    finite = tf.reduce_all(tf.math.is_finite(updates), axis=(1, 2), keepdims=True)
    updates = tf.where(finite, updates, tf.zeros_like(updates))
    values, _, right = tf.linalg.svd(updates)
    direction = right[:, :, 0]
    rows = tf.einsum("ndu,nu->nd", updates, direction)
    length = rows[:, -1]  # Of s, with its sign.
    examples = tf.math.divide_no_nan(rows[:, :-1], length[:, tf.newaxis])
    known = tf.reduce_all(tf.math.is_finite(examples), axis=1)
    examples = tf.where(known[:, tf.newaxis], examples, tf.zeros_like(examples))
    length = tf.where(known, length, tf.zeros_like(length))
    explained = tf.einsum("nd,nu->ndu", rows[:, :-1], direction)
    kernels = updates[:, :-1]
    misfit = tf.math.divide_no_nan(
        tf.norm(kernels - explained, axis=(1, 2)), tf.norm(kernels, axis=(1, 2))
    )
    entries = tf.cast(tf.reduce_prod(tf.shape(updates)[1:]), tf.float32)
    rest = tf.sqrt(tf.reduce_sum(values[:, 1:] ** 2, axis=1) / entries)
    return FirstLayer(
        examples,
        tf.where(length != 0, misfit, tf.ones_like(misfit)),
        tf.math.divide_no_nan(rest, tf.abs(length)),
    )


def denoise(
    found: FirstLayer, shape: Sequence[int], *, dark_background: bool
) -> np.ndarray:
    """Takes the noise out of inputs that are pictures, if it is known to be there.

    By total variation (Chambolle), with the noise's standard deviation for its weight.
    On digits under local DP (noise .003 and .01, one seed) twice of that did about as
    well, half of it less at .01. Without noise nothing is changed.

    Args:
      found: of n updates.
      shape: (H, W, C), of the pictures, in [-1, 1].
      dark_background: whether more than half of a picture is at -1, as of drawings.
        Where the noise is above `SCALE_KNOWN` that gives the scale, for which there is
        otherwise one noisy number, db . v. A picture with less background comes out too
        bright then.

    Returns:
      float32 `[n, H, W, C]`, in [-1, 1]; zeros where nothing is known.
    """
    images = found.examples.numpy().reshape([-1, *shape]).astype(np.float64)
    noise = found.noise.numpy().astype(np.float64)
    if dark_background:
        middle = np.median(images, axis=(1, 2, 3))
        unknown = (middle != 0) & (noise > SCALE_KNOWN)
        scale = np.divide(-1.0, middle, out=np.ones_like(middle), where=unknown)
        images, noise = images * scale[:, None, None, None], noise * np.abs(scale)
    cleaned = [
        denoise_tv_chambolle(image, weight=sigma, channel_axis=-1) if sigma else image
        for image, sigma in zip(images, noise, strict=True)
    ]
    return np.clip(np.stack(cleaned), -1.0, 1.0).astype(np.float32)


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
