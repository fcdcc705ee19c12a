"""What every benchmark has in common as a program: its flags and its output."""

import os
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from benchmarks import figures
from benchmarks.figures import Figure
from tff_leak.runtime.atomic import atomic_write_json

# (threads, seconds for each comparison) to figures.
Measure = Callable[[int, float], Sequence[Figure]]

_THREADS = flags.DEFINE_integer(
    "threads", None, "Threads of TensorFlow; default: the benchmark's.", lower_bound=1
)
_SECONDS = flags.DEFINE_float(
    "seconds",
    20.0,
    "Time for the measured rounds of one comparison; a few are made in any case.",
    lower_bound=0.0,
)
_JSON = flags.DEFINE_string("json", None, "Writes the figures to this file, too.")


def run(measure: Measure, *, threads: int | None = None) -> None:
    """Runs a benchmark as a program.

    Args:
      measure: the benchmark.
      threads: its default number of threads; None is one a core.
    """

    def main(argv: list[str]) -> None:
        del argv
        logging.set_verbosity(logging.WARNING)  # TFF says much at INFO.
        number = _THREADS.value or threads or len(os.sched_getaffinity(0))
        limit_threads(number)
        found = list(measure(number, _SECONDS.value))
        print(figures.table(found))
        if _JSON.value:
            atomic_write_json(_JSON.value, [figure.as_dict() for figure in found])

    app.run(main)


def limit_threads(number: int) -> None:
    """Limits TensorFlow in this process, within an op and between ops.

    To be called before TensorFlow computes anything. By the environment, which it
    reads then: what `tff_leak.runtime.use` sets stands above it, and a worker gets
    its own.
    """
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(number)
    os.environ["TF_NUM_INTEROP_THREADS"] = str(number)
