"""Runs computations in TFF's own runtime and in this process, beside each other."""

import collections
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from tff_leak.runtime import native
from tff_leak.runtime.in_process.context import InProcessContext


def assert_same(found: Any, expected: Any, rtol: float = 0.0, atol: float = 0.0):
    """Checks containers, names, dtypes, shapes and values; floats within tolerances.

    Datasets are the same if their elements are.
    """
    if isinstance(expected, tf.data.Dataset):
        assert isinstance(found, tf.data.Dataset)
        assert found.element_spec == expected.element_spec
        found, expected = list(found), list(expected)
    assert type(found) is type(expected)
    if attrs.has(type(expected)):
        found = attrs.asdict(found, recurse=False)
        expected = attrs.asdict(expected, recurse=False)
    if isinstance(expected, Mapping):
        assert list(found) == list(expected)
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other, rtol, atol)
        return
    one, other = np.asarray(found), np.asarray(expected)
    assert (one.dtype, one.shape) == (other.dtype, other.shape)
    if one.dtype.kind == "f":
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)
    else:
        np.testing.assert_array_equal(one, other)


class Beside:
    """The two runtimes.

    Attributes:
      native: TFF's own, the reference.
      in_process: ours, with its defaults.
      others: ours with other options, by name: pieces one by one, and several clients
        at the same time, in threads and in one function.
      vectors: ours with clients vectorised only.
    """

    def __init__(self, native_context: tff.framework.SyncContext):
        self.native = native_context
        self.in_process = InProcessContext()
        self.others = collections.OrderedDict(
            pieces=InProcessContext(fuse=False),
            slots=InProcessContext(threads=2, vectorize=2),
        )
        self.vectors = InProcessContext(vectorize=2)

    def assert_equal(self, comp: Any, *arguments: Any, **tolerance: float) -> Any:
        """Checks that the runtime in process, however set, gives what TFF's gives."""
        with installed(self.native):
            expected = comp(*arguments)
        with installed(self.in_process):
            assert_same(comp(*arguments), expected, **tolerance)
        self.ours(comp, *arguments, **tolerance)
        return expected

    def ours(self, comp: Any, *arguments: Any, **tolerance: float) -> Any:
        """Checks that options do not matter, also where TFF's runtime cannot run it."""
        with installed(self.in_process):
            expected = comp(*arguments)
        for context in self.others.values():
            with installed(context):
                assert_same(comp(*arguments), expected, **tolerance)
        return expected


def installed(context: Any):
    """Makes a context the current one for a `with` block."""
    return tff.framework.get_context_stack().install(context)


@pytest.fixture(scope="module")
def beside():
    with native.worker() as worker:
        yield Beside(worker.sync_context())


@pytest.fixture(scope="session")
def same() -> Callable[..., None]:
    return assert_same


@pytest.fixture
def in_process():
    """A context of the test's own, which is the current one."""
    context = InProcessContext()
    with installed(context):
        yield context
