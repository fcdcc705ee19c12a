"""Fixtures that more than one test module needs."""

import os
import pathlib
import signal

import pytest

import tff_leak  # noqa: F401  (first: it keeps TensorFlow's start-up quiet)

# Started in the background, this process ignores Ctrl-C, and so would every program
# that a test starts in order to interrupt it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


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


@pytest.fixture(scope="module")
def tff_worker():
    """TFF computations run in a worker of the project's while a module is tested."""
    import tensorflow_federated as tff

    from tff_leak.runtime import native

    with native.worker() as worker:
        tff.framework.set_default_context(worker.sync_context())
        yield worker
        tff.test.set_no_default_context()
