"""Runs the code blocks of docs/composing.md, in order, as a researcher would."""

import pathlib
import re

import numpy as np
import tensorflow as tf

ROOT = pathlib.Path(__file__).parents[2]


def _dataset(shape, classes, seed, label_type=np.int32):
    rng = np.random.default_rng(seed)
    images = rng.uniform(-1, 1, (30, *shape)).astype(np.float32)
    labels = rng.choice(classes, 30).astype(label_type)
    # Brighter pictures for higher classes: something to learn.
    images += labels[:, None, None, None] / 5
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(8)


def test_the_code_of_composing_md_runs():
    text = (ROOT / "docs" / "composing.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 6
    model = tf.keras.Sequential(
        [
            tf.keras.layers.Input((8, 8, 1)),
            tf.keras.layers.Flatten(),
            tf.keras.layers.Dense(4),
        ]
    )
    names = {
        "my_keras_model": model,
        "my_datasets": [
            _dataset((8, 8, 1), c, i) for i, c in enumerate([[0, 1], [2, 3]])
        ],
        "my_images": [
            _dataset((32, 32, 1), c, i) for i, c in enumerate([[0, 1], [2, 3]])
        ],
    }
    exec(blocks[0], names)
    code = [line for line in blocks[0].splitlines() if line and "import" not in line]
    assert len(code) <= 10
    assert int(names["server"].turn) == 4
    assert int(names["metrics"]["examples"]) == 30
    assert 0 < float(names["metrics"]["loss"]) < 2
    exec(blocks[1], names)
    assert names["images"].shape == (5, 32, 32, 1)
    assert names["malicious"].private.last_turn.injected.tolist() == [8]
    assert names["metrics"]["examples"] == 38
    exec(blocks[2], names)
    assert names["labels"].numpy().tolist() == [[0, 1], [2, 3]]
    assert names["found"].images.shape == (2, 2, 32, 32, 1)
    assert np.all(np.isfinite(names["found"].objective))
    exec(blocks[3], names)
    assert int(names["server"].turn) == 4
    for client, table in zip(names["clients"], names["tables"], strict=True):
        np.testing.assert_array_equal(client.training, table)
    assert -1 <= float(names["metrics"]["loss"]) < 0
    assert set(names["classes"].numpy()) <= {0, 1, 2, 3}
    exec(blocks[4], names)
    assert names["state"].client_work.round == 3
    # Three Gaussian mechanisms of 2 are one of 2 / sqrt(3), of which the exact epsilon
    # is 3.71; Renyi's is above it.
    assert 3.7 < names["spent"] < 1.1 * 3.71
    exec(blocks[5], names)
    changed = np.count_nonzero(names["after"].parameters - names["before"].parameters)
    assert 0 < changed <= round(0.1 * len(names["before"].parameters)) + 1
