"""Sources: known counts and places of pixels, TFDS sets, folders, bad input."""

import numpy as np
import PIL.Image
import pytest
import sklearn.datasets
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import gcs_utils

from tff_leak import errors
from tff_leak.data import sources, transforms


def _one_line_error(name, **kwargs) -> str:
    with pytest.raises(errors.InputError) as caught:
        sources.load(name, **kwargs)
    assert "\n" not in str(caught.value)
    assert "expected" in str(caught.value)
    return str(caught.value)


# --- Examples --------------------------------------------------------------------


def _examples(labels) -> sources.Examples:
    images = np.arange(len(labels), dtype=np.float32).reshape(-1, 1, 1, 1)
    return sources.Examples(images, np.asarray(labels, np.int32))


def test_examples_select_and_join():
    examples = _examples([3, 1, 3, 0])
    assert len(examples) == 4
    assert examples.of_class(3).images.ravel().tolist() == [0, 2]
    assert examples.of_classes({0, 1}).labels.tolist() == [1, 0]
    assert examples.take([3, 0]).images.ravel().tolist() == [3, 0]
    assert len(examples.take([])) == len(examples.of_class(9)) == 0
    joined = sources.Examples.concatenate(
        [examples, sources.Examples.empty((1, 1, 1)), examples.of_class(1)]
    )
    assert joined.labels.tolist() == [3, 1, 3, 0, 1]
    assert joined.labels.dtype == np.int32 and joined.images.dtype == np.float32


@pytest.mark.parametrize(
    "images, labels",
    [
        (np.zeros((2, 3, 3, 1)), np.zeros(2, np.int32)),
        (np.zeros((2, 3, 3), np.float32), np.zeros(2, np.int32)),
        (np.zeros((2, 3, 3, 1), np.float32), np.zeros(3, np.int32)),
        (np.zeros((2, 3, 3, 1), np.float32), np.zeros(2, np.int64)),
    ],
)
def test_examples_refuse_other_shapes_and_types(images, labels):
    with pytest.raises(ValueError, match="Expected"):
        sources.Examples(images, labels)


def test_nothing_to_join():
    with pytest.raises(ValueError, match="at least one"):
        sources.Examples.concatenate([])


# --- Digits and synthetic faces --------------------------------------------------


def test_digits():
    source = sources.load("digits")
    assert source.train.images.shape == (1797, 32, 32, 1)
    assert source.image_shape == (32, 32, 1) and source.num_classes == 10
    assert source.class_names == tuple("0123456789")
    assert source.test is None and source.foreground and not source.synthetic
    images = source.train.images
    assert images.min() == -1.0 and images.max() == 1.0
    for border in (images[:, :2], images[:, 26:], images[:, :, :2], images[:, :, 26:]):
        assert np.all(border == -1.0)
    counts = np.bincount(source.train.labels)
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_digits_shrunk_again_are_the_originals():
    original = sklearn.datasets.load_digits().images / 8.0 - 1.0
    pictures = sources.load("digits").train.images[:, 2:26, 2:26]
    shrunk = transforms.resize_to(pictures, 8)[..., 0]
    correlations = [
        np.corrcoef(a.ravel(), b.ravel())[0, 1]
        for a, b in zip(original, shrunk, strict=True)
    ]
    assert min(correlations) > 0.97
    assert np.abs(shrunk - original).mean() < 0.1


def test_synthetic_faces_are_called_so():
    source = sources.load("synthetic_faces", seed=3)
    assert source.synthetic and not source.foreground and source.test is None
    assert source.num_classes == 40 and source.image_shape == (64, 64, 1)
    assert all("synthetic" in name for name in source.class_names)
    assert np.bincount(source.train.labels).tolist() == [10] * 40


# --- TFDS ------------------------------------------------------------------------


def test_mnist(tfds_data_dir):
    source = sources.load("mnist", data_dir=tfds_data_dir)
    assert np.bincount(source.train.labels).tolist() == [
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949
    ]  # fmt: skip
    assert np.bincount(source.test.labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009
    ]  # fmt: skip
    images = source.test.images
    assert images.shape == (10000, 32, 32, 1) and images.dtype == np.float32
    for border in (images[:, :2], images[:, 30:], images[:, :, :2], images[:, :, 30:]):
        assert np.all(border == -1.0)
    used = np.argwhere(np.any(images[..., 0] > -1.0, axis=0))
    assert used.min() <= 4 and used.max() >= 28
    assert images.min() == -1.0 and images.max() == 1.0
    assert source.foreground and source.class_names == tuple("0123456789")


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Prepares a small TFDS set in `tmp_path` and returns its image-like features."""
    monkeypatch.setattr(gcs_utils, "_is_gcs_disabled", True)

    def write(name, image_shape, arrays, *, label=True, parts=("train", "test")):
        features = {"image": tfds.features.Image(shape=image_shape)}
        signature = {"image": tf.TensorSpec(image_shape, tf.uint8)}
        if label:
            features["label"] = tfds.features.ClassLabel(names=["cat", "dog"])
            signature["label"] = tf.TensorSpec((), tf.int64)

        def rows():
            for number, array in enumerate(arrays):
                yield {"image": array} | ({"label": number % 2} if label else {})

        dataset = tf.data.Dataset.from_generator(rows, output_signature=signature)
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version="1.0.0",
            data_dir=tmp_path,
            features=tfds.features.FeaturesDict(features),
            split_datasets={part: dataset for part in parts},
            disable_shuffling=True,
        )

    return write


def test_any_tfds_set_of_28_pixels_is_padded(store, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    arrays = np.zeros((5, 28, 28, 1), np.uint8)
    arrays[:, 0, 27] = [[0], [50], [100], [150], [255]]
    store("tiny_grey", (28, 28, 1), arrays)
    source = sources.load("tfds:tiny_grey")
    assert source.name == "tiny_grey" and source.class_names == ("cat", "dog")
    assert source.image_shape == (32, 32, 1) and source.foreground
    assert len(source.test) == 5 and source.train.labels.tolist() == [0, 1, 0, 1, 0]
    corner = source.train.images[:, 2, 29, 0]
    np.testing.assert_allclose(
        corner, np.array([0, 50, 100, 150, 255]) / 127.5 - 1, atol=1e-6
    )
    assert np.sum(source.train.images[:, 2:30, 2:30] > -1) == 4


def test_tfds_pictures_of_different_sizes_are_resized(store, tmp_path):
    arrays = [np.full((h, w, 3), 102, np.uint8) for h, w in [(40, 50), (90, 33)]]
    store("tiny_colour", (None, None, 3), arrays, parts=("train",))
    source = sources.load("tiny_colour", data_dir=tmp_path)
    assert source.test is None and not source.foreground
    assert source.train.images.shape == (2, 64, 64, 3)
    np.testing.assert_allclose(source.train.images, -0.2, atol=1e-5)


def test_tfds_set_without_labels(store, tmp_path):
    store("tiny_bare", (8, 8, 1), np.zeros((2, 8, 8, 1), np.uint8), label=False)
    message = _one_line_error("tiny_bare", data_dir=tmp_path)
    assert "features image " in message and "`label`" in message


def test_tfds_set_without_training_part(store, tmp_path):
    arrays = np.zeros((2, 8, 8, 1), np.uint8)
    store("tiny_test", (8, 8, 1), arrays, parts=("test",))
    assert "parts test:" in _one_line_error("tiny_test", data_dir=tmp_path)


def test_broken_tfds_files(store, tmp_path):
    store("tiny_cut", (8, 8, 1), np.zeros((9, 8, 8, 1), np.uint8), parts=("train",))
    directory = tmp_path / "tiny_cut" / "1.0.0"
    record = next(directory.glob("*.tfrecord*"))
    whole = record.read_bytes()
    record.write_bytes(whole[:-20])
    assert "cannot read tiny_cut" in _one_line_error("tiny_cut", data_dir=tmp_path)
    record.unlink()
    assert "cannot read tiny_cut" in _one_line_error("tiny_cut", data_dir=tmp_path)
    record.write_bytes(whole)
    (directory / "dataset_info.json").write_text("{ no json")
    assert "cannot read tiny_cut" in _one_line_error("tiny_cut", data_dir=tmp_path)


@pytest.mark.parametrize("name", ["mnist", "cifar10", "tfds:cifar10", "emnist/letters"])
def test_missing_tfds_set_names_the_command(name, tmp_path):
    message = _one_line_error(name, data_dir=tmp_path)
    bare = name.removeprefix("tfds:")
    assert message.startswith(f"{bare} is not under {tmp_path}")
    assert f"build {bare} --data_dir {tmp_path}`" in message


@pytest.mark.parametrize("name", ["nosuch", "", "two words", "a/b/c/d", "../mnist?"])
def test_unknown_name_lists_the_known_ones(name, tmp_path):
    message = _one_line_error(name, data_dir=tmp_path)
    assert repr(name) in message
    for known in ("digits", "mnist", "att_faces", "synthetic_faces", "image_folder:"):
        assert known in message


def test_unknown_name_suggests_a_near_one(tmp_path):
    message = _one_line_error("mnits", data_dir=tmp_path)
    assert message.endswith("did you mean mnist?")


# --- Folders ---------------------------------------------------------------------


def _save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(pixels).save(path)


def test_folder_with_parts_and_grey_pictures(tmp_path):
    for number, grey in enumerate((0, 51, 255)):
        _save(tmp_path / f"train/b/{number}.png", np.full((30, 40), grey, np.uint8))
    _save(tmp_path / "train/a/0.PNG", np.full((20, 20, 3), 102, np.uint8))
    _save(tmp_path / "test/b/0.png", np.full((30, 40), 51, np.uint8))
    (tmp_path / "train/b/notes.txt").write_text("not a picture")
    source = sources.load(f"image_folder:{tmp_path}")
    assert source.class_names == ("a", "b")
    assert source.train.labels.tolist() == [0, 1, 1, 1]
    assert source.image_shape == (32, 32, 1)
    np.testing.assert_allclose(
        source.train.images[:, 16, 16, 0], [-0.2, -1.0, -0.6, 1.0], atol=1e-5
    )
    assert source.test.labels.tolist() == [1]
    np.testing.assert_allclose(source.test.images, -0.6, atol=1e-5)


def test_plain_folder_with_colour(tmp_path):
    red = np.zeros((100, 120, 3), np.uint8)
    red[..., 0] = 255
    _save(tmp_path / "x/0.png", red)
    _save(tmp_path / "y/0.jpg", np.full((70, 70), 128, np.uint8))
    source = sources.load(f"image_folder:{tmp_path}")
    assert source.test is None and source.image_shape == (64, 64, 3)
    np.testing.assert_allclose(source.train.images[0, 9, 9], [1, -1, -1], atol=1e-5)
    np.testing.assert_allclose(source.train.images[1], 1 / 255, atol=0.02)
    assert not source.foreground and not source.synthetic


def test_sixteen_bit_pictures_keep_their_grey(tmp_path):
    _save(tmp_path / "x/0.png", np.full((32, 32), 51 * 257, np.uint16))
    source = sources.load(f"image_folder:{tmp_path}")
    np.testing.assert_allclose(source.train.images, -0.6, atol=1e-6)


def test_black_border_is_foreground_on_background(tmp_path):
    pixels = np.zeros((28, 28), np.uint8)
    pixels[10:18, 10:18] = 255
    _save(tmp_path / "x/0.png", pixels)
    source = sources.load(f"image_folder:{tmp_path}")
    assert source.foreground
    assert np.sum(source.train.images == 1.0) == 64
    assert np.all(source.train.images[0, 12:20, 12:20] == 1.0)


def test_missing_folder(tmp_path):
    message = _one_line_error(f"image_folder:{tmp_path / 'none'}")
    assert f"{tmp_path / 'none'} is not a directory" in message


def test_folder_without_classes(tmp_path):
    assert "no class folders" in _one_line_error(f"image_folder:{tmp_path}")


def test_empty_class_folder(tmp_path):
    _save(tmp_path / "x/0.png", np.zeros((8, 8), np.uint8))
    (tmp_path / "y").mkdir()
    message = _one_line_error(f"image_folder:{tmp_path}")
    assert f"{tmp_path / 'y'} holds no pictures" in message


def test_truncated_picture(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    _save(tmp_path / "x/0.jpg", noise)
    file = tmp_path / "x/0.jpg"
    file.write_bytes(file.read_bytes()[:500])
    message = _one_line_error(f"image_folder:{tmp_path}")
    assert f"cannot read the picture {file}" in message


def test_test_part_with_an_unknown_class_or_alone(tmp_path):
    _save(tmp_path / "test/z/0.png", np.zeros((8, 8), np.uint8))
    assert "train is missing" in _one_line_error(f"image_folder:{tmp_path}")
    _save(tmp_path / "train/x/0.png", np.zeros((8, 8), np.uint8))
    assert "class z is in" in _one_line_error(f"image_folder:{tmp_path}")
