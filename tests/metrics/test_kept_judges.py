"""A kept judge answers as the trained one, and is found for the same arguments only."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from tff_leak.data.sources import Examples
from tff_leak.metrics.judge import train_judge
from tff_leak.metrics.kept_judges import kept_judge

SETTINGS = {
    "num_classes": 2,
    "image_shape": (8, 8, 1),
    "seed": 3,
    "epochs": 1,
    "mean_pixels_visible": (8, 6),
}


def _examples(seed=0):
    images = np.random.default_rng(seed).uniform(-1, 1, (40, 8, 8, 1))
    labels = np.arange(40, dtype=np.int32) % 2
    return Examples(images.astype(np.float32), labels)


class _Training:
    """Trains, and counts."""

    def __init__(self):
        self.count = 0

    def __call__(self, examples, *, weights=None, **settings):
        self.count += weights is None
        return train_judge(examples, weights=weights, **settings)


@functools.cache
def _trained():
    return train_judge(_examples(), **SETTINGS)


def _answers(judge):
    images = np.random.default_rng(9).uniform(-1, 1, (20, 8, 8, 1))
    return judge.all_probabilities(judge.features(images.astype(np.float32)))


def test_it_is_trained_once_and_answers_the_same_to_the_bit(tmp_path):
    training, folder = _Training(), tmp_path / "new" / "judges"
    for count in (1, 1, 1):
        judge = kept_judge(folder, training, _examples(), **SETTINGS)
        assert training.count == count
        np.testing.assert_array_equal(_answers(judge), _answers(_trained()))
    # Another one answers otherwise: the test can fail.
    other = train_judge(_examples(), **SETTINGS | {"seed": 4})
    assert np.abs(_answers(other) - _answers(_trained())).max() > 1e-3
    assert [path.suffix for path in folder.iterdir()] == [".npz"]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"epochs": 2},
        {"mean_pixels_visible": (8, 8)},
        {"mean_pixels_visible": None},
        {"num_classes": 3},
    ],
    ids=str,
)
def test_other_settings_have_another_judge(tmp_path, change):
    training = _Training()
    kept_judge(tmp_path, training, _examples(), **SETTINGS)
    kept_judge(tmp_path, training, _examples(), **SETTINGS | change)
    assert training.count == 2


def test_other_examples_have_another_judge(tmp_path):
    training, examples = _Training(), _examples()
    kept_judge(tmp_path, training, examples, **SETTINGS)
    kept_judge(tmp_path, training, _examples(1), **SETTINGS)
    swapped = Examples(examples.images, 1 - examples.labels)
    kept_judge(tmp_path, training, swapped, **SETTINGS)
    assert training.count == 3


def test_how_tensorflow_computes_is_part_of_it(tmp_path, monkeypatch):
    training = _Training()
    kept_judge(tmp_path, training, _examples(), **SETTINGS)
    threads = tf.config.threading.get_intra_op_parallelism_threads()
    monkeypatch.setattr(
        tf.config.threading, "get_intra_op_parallelism_threads", lambda: threads + 1
    )
    kept_judge(tmp_path, training, _examples(), **SETTINGS)
    monkeypatch.setattr(
        tf.config.optimizer, "get_experimental_options", lambda: {"half": True}
    )
    kept_judge(tmp_path, training, _examples(), **SETTINGS)
    assert training.count == 3


@pytest.mark.parametrize("broken", [b"", b"no archive", None])
def test_a_file_that_cannot_be_read_is_made_anew(tmp_path, broken):
    training = _Training()
    kept_judge(tmp_path, training, _examples(), **SETTINGS)
    [path] = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if broken is None else broken)
    judge = kept_judge(tmp_path, training, _examples(), **SETTINGS)
    assert training.count == 2
    np.testing.assert_array_equal(_answers(judge), _answers(_trained()))
    assert path.read_bytes() == whole


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    training = _Training()
    for count in (1, 2):
        kept_judge(None, training, _examples(), **SETTINGS)
        assert training.count == count
    assert not list(tmp_path.iterdir())
