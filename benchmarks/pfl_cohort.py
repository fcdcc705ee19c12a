"""Benchmark e: a cohort of 50 against Apple's `pfl` package with PyTorch.

    python -m benchmarks.pfl_cohort

The CIFAR-10 workload of pfl-research on random data: 1000 users with 50 images of
32x32x3, cohorts of 50, a small CNN, batches of 10, one local epoch, SGD, no
evaluation. pfl runs in a process and an environment of its own (`pfl_worker`,
`pfl_environment`) and takes turns with `computations.fed_avg` in the in-process
context. Both start from the same weights and must agree after the first cohort. pfl
keeps its users' data in PyTorch's layout; we read ours from datasets each round.
"""

import contextlib
import itertools
import math
import pathlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks import contexts, observation, pfl_environment, program, workloads
from benchmarks.figures import Bound, Figure, check_equal, compare, skipped
from benchmarks.harness import Contender, interleave

_USERS = 1000
_MAPS = (14, 14, 64)  # what the dense layers see, channels last
_BOUND = Bound(at_most=1.0)
_NAME = "cohort of 50"
# Of the mean update of a cohort; two libraries' convolutions.
_TOLERANCE = 1e-2


def measure(threads: int, seconds: float) -> Sequence[Figure]:
    """Returns the figure, or one that says why pfl cannot run; see `program`."""
    try:
        python = pfl_environment.ensure()
    except pfl_environment.UnavailableError as error:
        return [skipped("e", f"{_NAME}: in_process / pfl", str(error))]
    work = workloads.pfl_cnn()
    images, labels = workloads.random_examples(
        work.network.input_shape, _USERS * work.examples
    )
    images = images.reshape(_USERS, work.examples, *images.shape[1:])
    labels = labels.reshape(_USERS, work.examples)
    ours = _Ours(contexts.in_process(threads), images, labels)
    start = ours.weights()
    with _pfl(python, threads, start, images, labels) as (call, first_weights):
        ours()
        call()
        difference = check_equal(
            "the first cohort's update",
            _change(start, from_pytorch(first_weights())),
            _change(start, ours.weights()),
            _TOLERANCE,
        )
        times = interleave({"in_process": ours, "pfl": call}, seconds=seconds)
    note = f"updates of the first cohort differ by {difference:.1g} of their size"
    return [compare("e", _NAME, times, "in_process", "pfl", bound=_BOUND, note=note)]


def to_pytorch(weights: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns the CNN's weights in PyTorch's layout: outputs, inputs, then space."""

    def convert(weight):
        if weight.ndim == 4:
            return weight.transpose(3, 2, 0, 1)
        if len(weight) == math.prod(_MAPS):
            weight = weight.reshape(*_MAPS, -1).transpose(2, 0, 1, 3)
            weight = weight.reshape(math.prod(_MAPS), -1)
        return weight.T  # A bias stays as it is.

    return [convert(weight) for weight in weights]


def from_pytorch(weights: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Undoes `to_pytorch`."""
    height, width, planes = _MAPS

    def convert(weight):
        if weight.ndim == 4:
            return weight.transpose(2, 3, 1, 0)
        weight = weight.T
        if len(weight) == math.prod(_MAPS):
            maps = weight.reshape(planes, height, width, -1).transpose(1, 2, 0, 3)
            weight = maps.reshape(math.prod(_MAPS), -1)
        return weight

    return [convert(weight) for weight in weights]


class _Ours:
    """Our side: at each call one more cohort is trained."""

    def __init__(self, context: Any, images: np.ndarray, labels: np.ndarray):
        work = workloads.pfl_cnn()
        process = observation.build_plain(work)
        self._datasets = [
            tf.data.Dataset.from_tensor_slices(user).batch(work.batch_size)
            for user in zip(images, labels, strict=True)
        ]
        self._cohorts = itertools.cycle(range(0, _USERS, work.clients))
        self._size = work.clients
        self._next = contexts.calling(context, process.next)
        self._state = contexts.calling(context, process.initialize)()

    def __call__(self) -> None:
        first = next(self._cohorts)
        cohort = self._datasets[first : first + self._size]
        self._state = self._next(self._state, cohort).state

    def weights(self) -> list[np.ndarray]:
        """The shared model's weights."""
        return [np.asarray(w) for w in self._state.global_model_weights.trainable]


@contextlib.contextmanager
def _pfl(
    python: pathlib.Path,
    threads: int,
    start: Sequence[np.ndarray],
    images: np.ndarray,
    labels: np.ndarray,
) -> Iterator[tuple[Contender, Callable[[], list[np.ndarray]]]]:
    """The side of pfl: a call trains a cohort, one reads the first's weights."""
    work = workloads.pfl_cnn()
    with tempfile.TemporaryDirectory() as folder:
        start_path = pathlib.Path(folder, "start.npz")
        first_path = pathlib.Path(folder, "first.npz")
        np.savez(
            start_path,
            images=images,
            labels=labels.astype(np.int64),
            cohort=work.clients,
            batch_size=work.batch_size,
            learning_rate=work.learning_rate,
            **{f"weight_{n}": w for n, w in enumerate(to_pytorch(start))},
        )
        script = pathlib.Path(__file__).with_name("pfl_worker.py")
        with subprocess.Popen(
            [str(python), str(script), str(start_path), str(first_path), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:

            def call() -> None:
                process.stdin.write("go\n")
                process.stdin.flush()
                if process.stdout.readline() != "done\n":
                    raise RuntimeError("The process of pfl has ended; see its message.")

            def first_weights() -> list[np.ndarray]:
                with np.load(first_path) as arrays:
                    return [arrays[f"weight_{n}"] for n in range(len(start))]

            try:
                yield call, first_weights
            finally:
                process.kill()


def _change(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> list:
    return [b - a for a, b in zip(before, after, strict=True)]


if __name__ == "__main__":
    program.run(measure)
