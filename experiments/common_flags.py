"""Flags that every experiment has, and what follows from them alone.

Importing this module defines them.
"""

from typing import Any

from absl import flags

from tff_leak.errors import InputError
from tff_leak.runtime import runtimes

OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Run directory: made, or gone on with."
)
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "TFDS data directory; default: TFDS_DATA_DIR, then TFDS's own."
)
SEED = flags.DEFINE_integer("seed", 0, "Of everything random.", lower_bound=0)
_THREADS = flags.DEFINE_integer(
    "threads", None, "Threads of TensorFlow; default: one a core.", lower_bound=1
)
_RUNTIME = flags.DEFINE_enum(
    "runtime", "in_process", runtimes.RUNTIMES, "What runs TFF's computations."
)
_PRECISION = flags.DEFINE_enum(
    "precision",
    "float32",
    runtimes.PRECISIONS,
    "Of convolutions and products of matrices; bfloat16 in process only.",
)


def start(example: str) -> int:
    """Settles TensorFlow's threads; to be called before anything is computed.

    Args:
      example: of a run directory, for the error message.

    Returns:
      How many threads there are.

    Raises:
      InputError: if there is no run directory.
    """
    threads = runtimes.use_threads(_THREADS.value)
    if not OUTPUT_DIR.value:
        raise InputError(
            "--output_dir is missing: expected a directory for the run; for example "
            f"--output_dir={example}"
        )
    return threads


def use_runtime(threads: int) -> None:
    """Puts the execution context in place that the flags ask for."""
    runtimes.use(
        _RUNTIME.value,
        threads=threads,
        asynchronous=True,
        precision=_PRECISION.value,
    )


def config(threads: int) -> dict[str, Any]:
    """Returns these flags' part of `config.json`."""
    return {
        "data_dir": DATA_DIR.value,
        "seed": SEED.value,
        "threads": threads,
        "runtime": _RUNTIME.value,
        "precision": _PRECISION.value,
    }
