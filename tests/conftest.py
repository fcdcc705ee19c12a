"""Fixtures that more than one test module needs."""

import os
import pathlib

import pytest


@pytest.fixture(scope="session")
def tfds_data_dir() -> pathlib.Path:
    """The TFDS data directory named by TFDS_DATA_DIR, or the test is skipped."""
    value = os.environ.get("TFDS_DATA_DIR")
    if not value:
        pytest.skip("TFDS_DATA_DIR is not set: it names a TFDS directory with MNIST")
    path = pathlib.Path(value)
    if not (path / "mnist").is_dir():
        pytest.skip(f"TFDS_DATA_DIR={value} holds no prepared MNIST")
    return path
