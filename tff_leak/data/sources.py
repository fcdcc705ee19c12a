"""Image sources: digits, MNIST, faces, one's own pictures, any TFDS image set.

Every source has square float32 images in [-1, 1] with a side of 32 or 64. Nothing is
ever downloaded and nothing is printed.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import pathlib
import re
from collections.abc import Iterable, Sequence

import numpy as np
import PIL.Image
import PIL.ImageOps
import sklearn.datasets
import tensorflow as tf
import tensorflow_datasets as tfds
from google.protobuf import json_format
from tensorflow_datasets.core import read_only_builder, registered

from tff_leak import errors
from tff_leak.data import att_faces, att_glasses, synthetic_faces, transforms

_OWN_SOURCES = ("digits", "mnist", "att_faces", "synthetic_faces")
_FOLDER_PREFIX = "image_folder:"
_SIDES = (32, 64)
_SUFFIXES = (".png", ".jpg", ".jpeg")
# What TFDS raises when prepared files are broken or were not written by TFDS 4.
_READ_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    AssertionError,
    json_format.Error,
    tf.errors.OpError,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Labelled images.

    Attributes:
        images: float32 `[n, H, W, C]` in [-1, 1].
        labels: int32 `[n]`.

    Raises:
        ValueError: shapes or types differ from these.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self):
        if self.images.ndim != 4 or self.images.dtype != np.float32:
            raise ValueError(
                "Expected float32 images [n, H, W, C], found "
                f"{self.images.dtype} {list(self.images.shape)}."
            )
        if self.labels.shape != self.images.shape[:1] or self.labels.dtype != np.int32:
            raise ValueError(
                f"Expected int32 labels [{len(self.images)}], found "
                f"{self.labels.dtype} {list(self.labels.shape)}."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Sequence[int] | np.ndarray) -> Examples:
        """The examples at `indices` (a copy), in that order."""
        indices = np.asarray(indices, np.int64)
        return Examples(self.images[indices], self.labels[indices])

    def of_class(self, label: int) -> Examples:
        """The examples of one class, in their order; empty where it has none."""
        return self.of_classes([label])

    def of_classes(self, labels: Iterable[int]) -> Examples:
        """The examples whose class is one of `labels`, in their order."""
        return self.take(np.flatnonzero(np.isin(self.labels, list(labels))))

    @staticmethod
    def empty(image_shape: Sequence[int]) -> Examples:
        """No examples of the shape `(H, W, C)`."""
        return Examples(np.zeros((0, *image_shape), np.float32), np.zeros(0, np.int32))

    @staticmethod
    def concatenate(parts: Sequence[Examples]) -> Examples:
        """One part after the other.

        Raises:
            ValueError: there is no part, so that the image shape is not known (see
                `empty`), or their image shapes differ.
        """
        if not parts:
            raise ValueError("Expected at least one part, found none.")
        return Examples(
            np.concatenate([part.images for part in parts]),
            np.concatenate([part.labels for part in parts]),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A set of labelled images with what the metrics need to know about it.

    Attributes:
        name: what `load` was asked for, without a `tfds:` prefix.
        train: the training part, or everything where there is no official test part.
        test: the official test part or None.
        class_names: one name per label 0..num_classes-1.
        synthetic: whether a program drew the images.
        foreground: whether bright strokes or objects lie on a background of exactly
            -1 (digits, MNIST); False for photographs and faces.
        glasses: bool `[len(train)]`, whose picture shows glasses; None where it is
            not known.
    """

    name: str
    train: Examples
    test: Examples | None
    class_names: tuple[str, ...]
    synthetic: bool
    foreground: bool
    glasses: np.ndarray | None = None

    @property
    def shows_people(self) -> bool:
        """Whether a class is one person's face."""
        return self.name in ("att_faces", "synthetic_faces")

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and number of channels."""
        return self.train.images.shape[1:]


def load(
    name: str, *, data_dir: str | os.PathLike | None = None, seed: int = 0
) -> Source:
    """Reads a source by its name.

    Args:
        name: one of
            `digits`: 1,797 real digits of 8x8 pixels that come with scikit-learn,
            enlarged to 24x24 and set into 32x32 at rows and columns 2..25;
            `mnist`: 60,000 + 10,000 digits, 28x28 padded to 32x32 (Hitaj et al.,
            section 8.1.1);
            `att_faces`: 400 faces of 40 people, 64x64 (Hitaj et al., section 8.1.2);
            `synthetic_faces`: as many drawn faces, 64x64;
            `image_folder:PATH`: pictures PATH/{train,test}/CLASS/*.png|jpg or
            PATH/CLASS/*.png|jpg, classes in alphabetical order;
            the name of an image-classification set of TFDS that is prepared in
            `data_dir`, also `set/config` and with the prefix `tfds:`.
            Pictures of the last two are padded from 28x28 to 32x32 or else resized
            to the smaller of 32 and 64 that is not less than the short side of the
            first picture (64 where both are less). Grey pictures keep one channel.
        data_dir: TFDS data directory; None is the environment variable
            TFDS_DATA_DIR or else `~/tensorflow_datasets`.
        seed: seed of `synthetic_faces`; other sources do not depend on it.

    Raises:
        errors.InputError: the name is unknown, or the data are missing or broken.
    """
    if name.startswith(_FOLDER_PREFIX):
        return _load_image_folder(name)
    name = name.removeprefix("tfds:")
    directory = _data_dir(data_dir)
    if name == "digits":
        return _load_digits()
    if name == "synthetic_faces":
        return _load_synthetic_faces(seed)
    if name == "att_faces":
        source = _read_prepared(name, att_faces.prepare(directory))
        return dataclasses.replace(source, glasses=att_glasses.wears_glasses())
    return _read_prepared(name, _find_prepared(name, directory))


def _data_dir(data_dir: str | os.PathLike | None) -> pathlib.Path:
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return pathlib.Path(chosen).expanduser()


def _load_digits() -> Source:
    bunch = sklearn.datasets.load_digits()  # Images [1797, 8, 8] with values 0..16.
    small = np.asarray(bunch.images[..., np.newaxis] / 8.0 - 1.0, np.float32)
    images = transforms.pad_to(transforms.resize_to(small, 24), 32, offset=(2, 2))
    return Source(
        name="digits",
        train=Examples(images, bunch.target.astype(np.int32)),
        test=None,
        class_names=tuple(str(digit) for digit in bunch.target_names),
        synthetic=False,
        foreground=True,
    )


def _load_synthetic_faces(seed: int) -> Source:
    faces = synthetic_faces.generate(seed=seed)
    people = int(faces.identities.max()) + 1
    return Source(
        name="synthetic_faces",
        train=Examples(faces.images, faces.identities),
        test=None,
        class_names=tuple(f"synthetic {person + 1}" for person in range(people)),
        synthetic=True,
        foreground=False,
        glasses=faces.glasses,
    )


# --- Prepared TFDS data sets -----------------------------------------------------


def _find_prepared(name: str, data_dir: pathlib.Path) -> pathlib.Path:
    """The directory of a prepared data set; never builds or downloads one."""
    try:
        return read_only_builder.builder_from_files(name, data_dir=data_dir).data_path
    except _READ_ERRORS as error:
        match = re.fullmatch(r"(\w+)([/:].+)?", name)
        known = tfds.list_builders(with_community_datasets=False)
        if not match or not (match[1] in known or (data_dir / match[1]).is_dir()):
            raise _unknown_name(name, known) from error
        if not isinstance(error, registered.DatasetNotFoundError):
            raise _broken(name, data_dir, error) from error
        raise errors.InputError(
            f"{name} is not under {data_dir}: expected a prepared TFDS data set; get "
            f"it with `python -m tensorflow_datasets.scripts.cli.main build {name} "
            f"--data_dir {data_dir}`"
        ) from error


def _unknown_name(name: str, known: Sequence[str]) -> errors.InputError:
    close = difflib.get_close_matches(name, [*_OWN_SOURCES, *known], n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return errors.InputError(
        f"unknown data set {name!r}: expected {', '.join(_OWN_SOURCES)}, "
        f"{_FOLDER_PREFIX}PATH or the name of an image-classification set of TFDS "
        f"(as fashion_mnist, cifar10), which is read from the TFDS data directory{hint}"
    )


def _broken(name: str, place: pathlib.Path, error: Exception) -> errors.InputError:
    reason = " ".join(str(error).split())[:160]
    return errors.InputError(
        f"cannot read {name} under {place} ({type(error).__name__}: {reason}): "
        "expected a whole data set prepared by TFDS 4; delete it and prepare it again"
    )


def _read_prepared(name: str, directory: pathlib.Path) -> Source:
    try:
        builder = tfds.builder_from_directory(directory)
        fits = _is_image_classification(builder.info)
        side = _tfds_side(builder) if fits else 0
        train, dark = _read_split(builder, "train", side) if fits else (None, False)
        test, _ = _read_split(builder, "test", side) if fits else (None, False)
    except _READ_ERRORS as error:
        raise _broken(name, directory, error) from error
    if train is None:
        raise errors.InputError(
            f"{name} has the features {', '.join(builder.info.features)} and the parts "
            f"{', '.join(builder.info.splits)}: expected an 8-bit `image`, a `label` "
            "of named classes and a labelled part `train`; choose an image-"
            "classification set of TFDS"
        )
    return Source(
        name=name,
        train=train,
        test=test,
        class_names=tuple(builder.info.features["label"].names),
        synthetic=False,
        foreground=dark,
    )


def _is_image_classification(info: tfds.core.DatasetInfo) -> bool:
    features = dict(info.features.items()) if hasattr(info.features, "items") else {}
    image, label = features.get("image"), features.get("label")
    return (
        isinstance(image, tfds.features.Image)
        and image.np_dtype == np.uint8
        and isinstance(label, tfds.features.ClassLabel)
        and "train" in info.splits
        and info.splits["train"].num_examples > 0
    )


def _tfds_side(builder: tfds.core.DatasetBuilder) -> int:
    height, width, _ = builder.info.features["image"].shape
    if height is None or width is None:
        first = next(iter(tfds.as_numpy(builder.as_dataset(split="train[:1]"))))
        height, width, _ = first["image"].shape
    return _side(height, width)


def _read_split(
    builder: tfds.core.DatasetBuilder, split: str, side: int
) -> tuple[Examples | None, bool]:
    """Reads one part; returns it and whether its background is black.

    The part is None where it does not exist, is empty or has its labels withheld.
    """
    if split not in builder.info.splits:
        return None, False
    *fixed, channels = builder.info.features["image"].shape
    count = builder.info.splits[split].num_examples
    images = np.empty((count, side, side, channels), np.float32)
    labels = np.empty(count, np.int32)
    dataset = builder.as_dataset(
        split=split,
        batch_size=1 if None in fixed else 1000,
        read_config=tfds.ReadConfig(try_autocache=False),
    )
    start, dark = 0, 0.0
    for batch in tfds.as_numpy(dataset):
        stop = start + len(batch["label"])
        images[start:stop] = _fit(batch["image"], side)
        labels[start:stop] = batch["label"]
        dark += _dark_share(batch["image"]) * (stop - start)
        start = stop
    if start != count:
        raise ValueError(f"{start} of {count} examples in {split}")
    if count == 0 or labels.min() < 0:
        return None, False
    return Examples(images, labels), channels == 1 and dark > 0.5 * count


# --- A folder of pictures --------------------------------------------------------


def _load_image_folder(name: str) -> Source:
    root = pathlib.Path(name.removeprefix(_FOLDER_PREFIX)).expanduser()
    if not root.is_dir():
        raise errors.InputError(
            f"{root} is not a directory: expected PATH/CLASS/*.png|jpg or "
            "PATH/{train,test}/CLASS/*.png|jpg; give the path of such a folder"
        )
    has_parts = (root / "train").is_dir() or (root / "test").is_dir()
    paths = _list_pictures(root / "train" if has_parts else root)
    names = tuple(paths)
    test_paths = _list_pictures(root / "test") if (root / "test").is_dir() else {}
    for surplus in set(test_paths) - set(names):
        raise errors.InputError(
            f"class {surplus} is in {root / 'test'} and not in {root / 'train'}: "
            "expected the same classes; add pictures of it or remove it"
        )
    train, labels = _read_pictures(paths, names)
    test, test_labels = _read_pictures(test_paths, names)
    grey = all(_is_grey(picture) for picture in (*train, *test))
    side = _side(*train[0].shape[:2])
    images = _to_batch(train, side, grey)
    dark = float(np.mean([_dark_share(picture[np.newaxis]) for picture in train]))
    return Source(
        name=name,
        train=Examples(images, labels),
        test=Examples(_to_batch(test, side, grey), test_labels) if test else None,
        class_names=names,
        synthetic=False,
        foreground=grey and dark > 0.5,
    )


def _list_pictures(folder: pathlib.Path) -> dict[str, list[pathlib.Path]]:
    """The picture files of each class, both in alphabetical order."""
    classes = sorted(path for path in _entries(folder) if path.is_dir())
    if not classes:
        raise errors.InputError(
            f"{folder} has no class folders: expected CLASS/*.png|jpg in it; make a "
            "folder for each class"
        )
    found = {}
    for path in classes:
        found[path.name] = sorted(
            file for file in _entries(path) if file.suffix.lower() in _SUFFIXES
        )
        if not found[path.name]:
            raise errors.InputError(
                f"{path} holds no pictures: expected *.png or *.jpg; add some or "
                "remove the folder"
            )
    return found


def _entries(folder: pathlib.Path) -> list[pathlib.Path]:
    if not folder.is_dir():
        raise errors.InputError(
            f"{folder} is missing: expected it beside the other part; put the training "
            "pictures there"
        )
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def _read_pictures(
    paths: dict[str, list[pathlib.Path]], names: Sequence[str]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Reads uint8 `[H, W, 3]` pictures and int32 labels, class by class."""
    pictures = [_read_picture(file) for files in paths.values() for file in files]
    labels = [names.index(label) for label, files in paths.items() for _ in files]
    return pictures, np.asarray(labels, np.int32)


def _read_picture(path: pathlib.Path) -> np.ndarray:
    """Reads one picture upright; transparency is dropped, 16 bits become 8."""
    try:
        with PIL.Image.open(path) as opened:
            picture = PIL.ImageOps.exif_transpose(opened)
            if picture.mode.startswith("I"):
                levels = np.asarray(picture, np.float64) / 257.0
                picture = PIL.Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))
            return np.asarray(picture.convert("RGB"))
    except (
        OSError,
        ValueError,
        SyntaxError,
        PIL.Image.DecompressionBombError,
    ) as error:
        raise errors.InputError(
            f"cannot read the picture {path} ({type(error).__name__}): expected a "
            "whole PNG or JPEG file; replace or remove it"
        ) from error


def _is_grey(picture: np.ndarray) -> bool:
    red, green, blue = np.moveaxis(picture, -1, 0)
    return np.array_equal(red, green) and np.array_equal(red, blue)


def _to_batch(pictures: Sequence[np.ndarray], side: int, grey: bool) -> np.ndarray:
    channels = slice(0, 1) if grey else slice(0, 3)
    return np.concatenate(
        [_fit(picture[np.newaxis, :, :, channels], side) for picture in pictures]
        or [np.zeros((0, side, side, 1 if grey else 3), np.float32)]
    )


# --- Size and background ---------------------------------------------------------


def _side(height: int, width: int) -> int:
    short = min(height, width)
    return next((side for side in _SIDES if side >= short), _SIDES[-1])


def _fit(images: np.ndarray, side: int) -> np.ndarray:
    """uint8 `[n, H, W, C]` to float32 `[n, side, side, C]` in [-1, 1]."""
    scaled = transforms.to_unit_range(images)
    if images.shape[1:3] == (28, 28) and side == 32:
        return transforms.pad_to(scaled, side)
    return transforms.resize_to(scaled, side)


def _dark_share(images: np.ndarray) -> float:
    """Share of exactly black pixels among the border pixels of uint8 images."""
    border = np.ones(images.shape[1:3], bool)
    border[1:-1, 1:-1] = False
    return float(np.mean(images[:, border] == 0))
