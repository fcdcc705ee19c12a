"""Selective sharing: hand-made cases for both criteria and the download."""

import numpy as np
import pytest
import tensorflow as tf

from tff_leak.defences.selective_sharing import (
    Criterion,
    DownloadCriterion,
    SelectiveSharing,
    select_download,
    select_upload,
)
from tff_leak.errors import InputError

SEED = tf.constant([7, 8])
UPDATE = tf.constant([0.5, -0.4, 0.05, 0.0, 0.3])


def test_everything_is_shared_by_default():
    np.testing.assert_array_equal(
        select_upload(SelectiveSharing(), UPDATE, SEED), UPDATE
    )


def test_largest_magnitudes():
    upload = select_upload(SelectiveSharing(upload_fraction=0.4), UPDATE, SEED)
    np.testing.assert_allclose(upload, [0.5, -0.4, 0.0, 0.0, 0.0])


def test_fraction_is_rounded_up():
    upload = select_upload(SelectiveSharing(upload_fraction=0.01), UPDATE, SEED)
    np.testing.assert_allclose(upload, [0.5, 0.0, 0.0, 0.0, 0.0])


def test_bound_clips_before_selection():
    sharing = SelectiveSharing(upload_fraction=0.6, bound=0.2)
    upload = select_upload(sharing, UPDATE, SEED)
    np.testing.assert_allclose(upload, [0.2, -0.2, 0.0, 0.0, 0.2])


def test_random_takes_only_what_is_above_the_threshold():
    sharing = SelectiveSharing(1.0, criterion=Criterion.RANDOM, threshold=0.1)
    upload = select_upload(sharing, UPDATE, SEED)
    np.testing.assert_allclose(upload, [0.5, -0.4, 0.0, 0.0, 0.3])


def test_random_is_uniform_over_what_is_above_the_threshold():
    sharing = SelectiveSharing(0.2, criterion=Criterion.RANDOM, threshold=0.1)
    seeds = tf.stack([tf.range(600), tf.range(600) * 7], axis=1)
    uploads = tf.map_fn(
        lambda seed: select_upload(sharing, UPDATE, seed), seeds, tf.float32
    )
    counts = np.count_nonzero(uploads, axis=0)
    assert counts.sum() == 600  # one entry each time
    # Binomial(600, 1/3): mean 200, deviation 11.5; five deviations.
    assert np.all(np.abs(counts[[0, 1, 4]] - 200) < 58)


def test_download_takes_the_most_recently_uploaded():
    sharing = SelectiveSharing(download_fraction=0.5)
    local, shared = tf.zeros([4]), tf.ones([4])
    recency = tf.constant([0.1, 2.0, 0.0, 1.0])
    fetched, mask = select_download(sharing, local, shared, recency, SEED)
    np.testing.assert_array_equal(fetched, [0, 1, 0, 1])


def test_a_random_download_takes_no_notice_of_counts():
    sharing = SelectiveSharing(
        download_fraction=0.5, download_criterion=DownloadCriterion.RANDOM
    )
    recency = tf.constant([0.1, 2.0, 0.0, 1.0])
    masks = np.stack(
        [
            select_download(sharing, tf.zeros([4]), tf.ones([4]), recency, s).mask
            for s in tf.constant([[i, 3] for i in range(400)])
        ]
    )
    assert np.all(masks.sum(axis=1) == 2)
    # Binomial(400, 1/2): mean 200, deviation 10; five deviations.
    assert np.all(np.abs(masks.sum(axis=0) - 200) < 50)


@pytest.mark.parametrize("count", [0.0, 9.999999])
def test_download_breaks_ties_at_random(count):
    sharing = SelectiveSharing(download_fraction=0.25)
    recency = tf.fill([4], count)
    picks = {
        int(
            np.argmax(
                select_download(
                    sharing, tf.zeros([4]), tf.ones([4]), recency, s
                ).parameters
            )
        )
        for s in tf.constant([[i, 3] for i in range(40)])
    }
    assert picks == {0, 1, 2, 3}  # 4 * (3/4)^40 = 4e-5 to miss one


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"upload_fraction": 0.0}, r"upload_fraction is 0.0: expected .* \(0, 1\]"),
        ({"download_fraction": 1.5}, r"download_fraction is 1.5: expected"),
        ({"threshold": -1.0}, "threshold is -1.0: expected tau >= 0"),
        ({"threshold": 0.1}, "threshold is 0.1 with criterion largest: expected"),
        ({"bound": 0.0}, "bound is 0.0: expected gamma > 0"),
        (
            {"download_criterion": DownloadCriterion.RANDOM},
            "download_criterion is random with download_fraction 1: expected",
        ),
    ],
)
def test_values_out_of_range(settings, message):
    with pytest.raises(InputError, match=message):
        SelectiveSharing(**settings)
