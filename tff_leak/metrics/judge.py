"""An independent classifier that says what a reconstruction shows.

It is trained on real images that the victim does not hold, with an architecture other
than the attacked one (3x3 convolutions, ReLU, batch normalisation), so that what
fools the attacked model need not fool it. A classifier that must name a class names
one for noise too; the judge has one output more, "none of the classes", trained on
`non_examples`. It rejects what resembles them and may still name other strange
pictures. Its penultimate layer supplies the features for FID and KID.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from tff_leak import errors
from tff_leak.metrics.non_examples import non_examples
from tff_leak.metrics.similarity import crop

if TYPE_CHECKING:
    from tff_leak.data.sources import Examples

_FEATURES = 128
_BATCH = 32
# As many non-examples as this share of the real images of a batch.
_NON_EXAMPLES = 0.4
_PREDICTION_BATCH = 256
_DROPOUT = 0.3
_LEARNING_RATE = 2e-3
_LEAST_STEPS = 600
_LEAST_EPOCHS = 8
# Larger images are halved at the entrance: a person or a digit is named as well at
# 32x32, in a quarter of the time.
_HALVED_FROM = 48


@dataclasses.dataclass(frozen=True)
class Judge:
    """A trained classifier of images [n, H, W, C] with values in [-1, 1].

    Attributes:
      backbone: Keras model from images to features [n, 128].
      head: Keras layer from features to logits [n, num_classes + 1]; the last is
        "none of the classes".
      image_shape: (H, W, C).
      fill: float32 [H, W, C], put in the place of pixels outside `visible`.
      visible: bool [H, W, 1], the pixels that the judge looks at.
    """

    backbone: tf.keras.Model
    head: tf.keras.layers.Dense
    image_shape: tuple[int, int, int]
    fill: np.ndarray
    visible: np.ndarray

    def features(self, images: np.ndarray) -> np.ndarray:
        """Penultimate layer, float32 [n, 128], of images [n, H, W, C].

        Raises:
          InputError: If the images are not of the judge's shape.
        """
        images = _checked(images, self.image_shape)
        images = np.where(self.visible, images, self.fill)
        parts = [
            self.backbone(images[start : start + _PREDICTION_BATCH], training=False)
            for start in range(0, len(images), _PREDICTION_BATCH)
        ]
        empty = np.zeros((0, _FEATURES), np.float32)
        return np.concatenate([empty, *(part.numpy() for part in parts)])

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Class probabilities, float32 [n, num_classes], of images [n, H, W, C].

        A row sums to 1 minus the probability that the image shows none of the
        classes; see `rejected`.

        Raises:
          InputError: If the images are not of the judge's shape.
        """
        return self.all_probabilities(self.features(images))[:, :-1]

    def rejected(self, images: np.ndarray) -> np.ndarray:
        """Probability of "none of the classes", float32 [n], of images [n, H, W, C].

        Raises:
          InputError: If the images are not of the judge's shape.
        """
        return self.all_probabilities(self.features(images))[:, -1]

    def all_probabilities(self, features: np.ndarray) -> np.ndarray:
        """Probabilities of the classes and, last, of none of them, of features.

        Args:
          features: float32 [n, 128].

        Returns:
          float32 [n, num_classes + 1], rows that sum to 1.
        """
        return tf.nn.softmax(self.head(features)).numpy()

    def weights(self) -> list[np.ndarray]:
        """All that training found, for `train_judge`."""
        return [*self.backbone.get_weights(), *self.head.get_weights()]

    def accuracy(self, examples: Examples) -> float:
        """Share of the examples (at least one) whose label the judge names.

        A rejected example counts as wrong.
        """
        features = self.features(examples.images)
        named = self.all_probabilities(features).argmax(axis=1)
        return float((named == examples.labels).mean())


def train_judge(
    examples: Examples,
    *,
    num_classes: int,
    image_shape: tuple[int, int, int],
    seed: int,
    epochs: int | None = None,
    mean_pixels_visible: tuple[int, int] | None = None,
    weights: Sequence[np.ndarray] | None = None,
) -> Judge:
    """Trains a judge with Adam on shifted copies of real images and on non-examples.

    The same arguments give the same judge, bit for bit on one machine; no global
    random state is read or changed.

    Args:
      examples: images float32 [n, H, W, C] in [-1, 1] and labels int32 [n]; none of
        them the victim's.
      num_classes: Number of classes.
      image_shape: (H, W, C), sides of at least 8 pixels.
      seed: At least 0.
      epochs: Passes over the examples; None takes enough for some 600 steps.
      mean_pixels_visible: (h, w), the judge sees the first h rows and w columns; the
        others are replaced by the mean of `examples` at that pixel, in training and in
        use. None shows everything.
      weights: `Judge.weights` of an earlier training with the same arguments, which is
        not done again; None trains.

    Raises:
      InputError: If there is no example, the shape or `mean_pixels_visible` does not
        fit, or a label is not below `num_classes`.
    """
    images = _checked(examples.images, image_shape)
    labels = np.asarray(examples.labels, np.int32)
    _check_labels(labels, len(images), num_classes)
    fill = images.mean(axis=0)
    visible = np.zeros((*image_shape[:2], 1), bool)
    height, width = crop(images[:1], mean_pixels_visible).shape[1:3]
    visible[:height, :width] = True
    images = np.where(visible, images, fill)
    if epochs is None:
        epochs = max(_LEAST_EPOCHS, -(-_LEAST_STEPS * _BATCH // len(images)))
    backbone, head = _network(image_shape, num_classes + 1, seed)
    judge = Judge(backbone, head, tuple(image_shape), fill, visible)
    if weights is not None:
        own = len(backbone.get_weights())
        backbone.set_weights(weights[:own])
        head.set_weights(weights[own:])
        return judge
    batches_an_epoch = -(-len(images) // _BATCH)
    step = _training_step(backbone, head, epochs * batches_an_epoch)
    rng = np.random.default_rng([seed, 1])
    for _ in range(epochs):
        # Equal parts rather than a short last batch: batch normalisation needs
        # batches that say something about the mean.
        order = rng.permutation(len(images))
        for chosen in np.array_split(order, batches_an_epoch):
            batch, classes = _with_non_examples(
                _shifted(images[chosen], rng), labels[chosen], num_classes, rng
            )
            noise = rng.integers(0, 2**31 - 1, size=2, dtype=np.int32)
            batch = np.where(visible, batch, fill)
            step(tf.constant(batch), tf.constant(classes), tf.constant(noise))
    return judge


def _network(
    image_shape: tuple[int, int, int], outputs: int, seed: int
) -> tuple[tf.keras.Model, tf.keras.layers.Dense]:
    """Three blocks of convolution, normalisation, ReLU and pooling; 128 features."""
    seeds = iter(np.random.SeedSequence([seed, 0]).generate_state(5) // 2)

    def initializer() -> tf.keras.initializers.Initializer:
        return tf.keras.initializers.HeUniform(seed=int(next(seeds)))

    layers = [tf.keras.layers.InputLayer(image_shape, name="image")]
    if min(image_shape[:2]) >= _HALVED_FROM:
        layers.append(tf.keras.layers.AveragePooling2D(name="halved"))
    for i, filters in enumerate((16, 32, 64)):
        layers += [
            tf.keras.layers.Conv2D(
                filters,
                3,
                padding="same",
                use_bias=False,
                kernel_initializer=initializer(),
                name=f"convolution_{i}",
            ),
            # 600 steps are too few for Keras's default momentum of .99.
            tf.keras.layers.BatchNormalization(momentum=0.9, name=f"norm_{i}"),
            # Pooling first gives the same result at a quarter of the work.
            tf.keras.layers.MaxPool2D(name=f"pool_{i}"),
            tf.keras.layers.ReLU(name=f"relu_{i}"),
        ]
    layers += [
        tf.keras.layers.Flatten(name="flat"),
        tf.keras.layers.Dense(
            _FEATURES,
            activation="relu",
            kernel_initializer=initializer(),
            name="features",
        ),
    ]
    head = tf.keras.layers.Dense(
        outputs, kernel_initializer=initializer(), name="logits"
    )
    head.build((None, _FEATURES))
    return tf.keras.Sequential(layers, name="judge"), head


def _training_step(
    backbone: tf.keras.Model, head: tf.keras.layers.Dense, steps: int
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], None]:
    """One Adam step; dropout is stateless, so that no global generator is used."""
    rate = tf.keras.optimizers.schedules.CosineDecay(_LEARNING_RATE, steps)
    optimizer = tf.keras.optimizers.Adam(rate)
    variables = backbone.trainable_variables + head.trainable_variables
    optimizer.build(variables)

    @tf.function(reduce_retracing=True)
    def step(images: tf.Tensor, labels: tf.Tensor, noise: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            features = backbone(images, training=True)
            features = tf.nn.experimental.stateless_dropout(
                features, rate=_DROPOUT, seed=noise
            )
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels, head(features))
            )
        gradients = tape.gradient(loss, variables)
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    return step


def _with_non_examples(
    images: np.ndarray, labels: np.ndarray, none: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A batch of real images followed by non-examples, which are of class `none`."""
    count = max(1, round(_NON_EXAMPLES * len(images)))
    strange = non_examples(images, labels, count, rng)
    return (
        np.concatenate([images, strange]),
        np.concatenate([labels, np.full(count, none, np.int32)]),
    )


def _shifted(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Moves each image by up to a sixteenth of its side, repeating the border."""
    n, height, width, _ = images.shape
    most = max(1, min(height, width) // 16)
    padded = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    moves = rng.integers(0, 2 * most + 1, size=(2, n, 1))
    rows = (moves[0] + np.arange(height))[:, :, None]
    columns = (moves[1] + np.arange(width))[:, None, :]
    return padded[np.arange(n)[:, None, None], rows, columns]


def _checked(images: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray:
    images = np.asarray(images, np.float32)
    if images.ndim != 4 or images.shape[1:] != tuple(image_shape):
        raise errors.InputError(
            f"Images have shape {images.shape}; expected [n, "
            f"{', '.join(map(str, image_shape))}], what the judge is for; train a "
            "judge on images of the same data source."
        )
    return images


def _check_labels(labels: np.ndarray, count: int, num_classes: int) -> None:
    if not count or labels.shape != (count,):
        raise errors.InputError(
            f"The judge was given {count} images and labels of shape {labels.shape}; "
            "expected one label an image, at least one image; keep some real images "
            "apart from the participants'."
        )
    if labels.min() < 0 or labels.max() >= num_classes:
        raise errors.InputError(
            f"Labels lie in [{labels.min()}, {labels.max()}]; expected [0, "
            f"{num_classes - 1}]; set num_classes to the number of real classes."
        )
