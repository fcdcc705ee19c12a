"""Which classes a client holds, read from its update of the output layer.

The gradient of the cross-entropy in the logits of an example is p - y, confidences
minus the one-hot label. An output layer with weights `[features, k]` and biases `[k]`
therefore sums over a client's steps and examples i, with a_i the layer's inputs,

    bias c:      rate * sum_i (p_ic - y_ic)
    column c:    rate * sum_i (p_ic - y_ic) a_i

and old minus new is positive where a bias falls. Of a class that the client does not
hold only p is left: its bias falls, and column / bias is a weighted mean of the a_i,
about the same for every such class. A class that the client holds gives itself away

- by a bias that rises (Wang et al., INFOCOM 2019, do not say where labels come from;
  the sign is that of Zhao et al., "iDLG", 2020, for one example); or, where the shared
  model expects the class more often than the client has it and its bias falls as well,
- by a column that is large for its bias: |column| / |bias| is then above the others',
  since the two terms cancel in the bias and not in the column.

Updates are old minus new weights, as `computations.fed_avg` sends them, or gradients.
"""

from collections.abc import Sequence

import tensorflow as tf

from tff_leak.errors import InputError

# By how much |column| / |bias| of a held class lies above the others' median. Of ten
# clients of MNIST at four stages of training, up to an accuracy of .51, classes not
# held were at most 1.09 times the median, and the nine held ones with falling biases
# at least 1.25 times.
_LARGE = 1.15


def held_classes(updates: Sequence[tf.Tensor]) -> tf.Tensor:
    """Tells which classes each client's data has.

    Args:
      updates: float32 `[clients, ...]` each, as a network's trainable weights; the
        last two are those of the output layer: `[clients, features, k]` and
        `[clients, k]`.

    Returns:
      bool `[clients, k]`; all False for an update of zeros.

    Raises:
      InputError: if the last two have other shapes.
    """
    columns, biases = _output_layer(updates)
    falls = biases > 0.0
    ratios = tf.math.divide_no_nan(tf.norm(columns, axis=1), tf.abs(biases))
    # The lower median among the classes whose biases fall.
    ordered = tf.sort(tf.where(falls, ratios, ratios.dtype.max), axis=1)
    number = tf.reduce_sum(tf.cast(falls, tf.int32), axis=1)
    middle = tf.gather(ordered, tf.maximum(number - 1, 0) // 2, batch_dims=1)
    return (biases < 0.0) | (falls & (ratios > _LARGE * middle[:, tf.newaxis]))


def class_shares(updates: Sequence[tf.Tensor]) -> tf.Tensor:
    """Estimates which share of its examples each client has of each class.

    The rise of a bias above the mean fall of the classes that are not held is
    proportional to the share, as long as the shared model expects all classes alike.
    So it is in the first rounds; later it is a guess that misses classes which the
    model already knows.

    Args:
      updates: see `held_classes`.

    Returns:
      float32 `[clients, k]`, positive for `held_classes`, 0 for others; rows sum to
      1, or to 0 for an update of zeros.

    Raises:
      InputError: see `held_classes`.
    """
    held = held_classes(updates)
    _, biases = _output_layer(updates)
    others = tf.cast(~held, tf.float32)
    fall = tf.math.divide_no_nan(
        tf.reduce_sum(others * biases, axis=1, keepdims=True),
        tf.reduce_sum(others, axis=1, keepdims=True),
    )
    rises = fall - biases
    largest = tf.reduce_max(tf.abs(rises), axis=1, keepdims=True)
    rises = tf.where(held, tf.maximum(rises, 1e-3 * largest), 0.0)
    return tf.math.divide_no_nan(rises, tf.reduce_sum(rises, axis=1, keepdims=True))


def infer_labels(updates: Sequence[tf.Tensor], images: int) -> tf.Tensor:
    """Labels for a client's representatives: the classes it holds, evenly.

    Evenly, since shares are reliable in the first rounds only; where they are,
    `allot_labels(class_shares(updates), images)` follows them.

    Args:
      updates: see `held_classes`.
      images: how many labels; if they do not suffice for all classes held, those
        whose biases rise most have one.

    Returns:
      int32 `[clients, images]`, ascending. An update of zeros tells nothing: its
      labels are 0.

    Raises:
      InputError: see `held_classes` and `allot_labels`.
    """
    _, biases = _output_layer(updates)
    size = tf.math.divide_no_nan(
        biases, tf.reduce_max(tf.abs(biases), axis=1, keepdims=True)
    )
    # Hardly more than even: only what is left over goes by the size of the rise.
    weights = tf.where(held_classes(updates), 1.0 - 1e-3 * size, 0.0)
    return allot_labels(weights, images)


def allot_labels(shares: tf.Tensor, images: int) -> tf.Tensor:
    """Makes whole numbers of images of shares, by Sainte-Lague's highest averages.

    Every class with a positive share has one image before any class has two.

    Args:
      shares: float32 `[clients, k]`, not negative; their sum does not matter.
      images: of each client.

    Returns:
      int32 `[clients, images]`, ascending.

    Raises:
      InputError: if `images` is less than 1.
    """
    if images < 1:
        raise InputError(
            f"images is {images}: expected at least 1 for each client; 1 for each "
            "class that it holds is the usual"
        )
    seats = tf.range(images, dtype=tf.float32)
    averages = shares[:, :, tf.newaxis] / (2.0 * seats + 1.0)
    first = tf.cast((shares[:, :, tf.newaxis] > 0.0) & (seats < 1.0), tf.float32)
    averages += first * tf.reduce_max(shares, axis=1)[:, tf.newaxis, tf.newaxis]
    flat = tf.reshape(averages, [tf.shape(shares)[0], shares.shape[1] * images])
    _, places = tf.math.top_k(flat, images)
    return tf.sort(places // images, axis=1)


def _output_layer(updates: Sequence[tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
    shapes = [tuple(update.shape) for update in updates[-2:]]
    ranks = [len(shape) for shape in shapes]
    if ranks != [3, 2] or shapes[0][-1] != shapes[1][-1]:
        raise InputError(
            f"the last updates have the shapes {shapes}: expected "
            "[clients, features, k] and [clients, k] of an output layer with biases; "
            "give the labels if the network has none"
        )
    columns, biases = (tf.convert_to_tensor(update) for update in updates[-2:])
    return columns, biases
