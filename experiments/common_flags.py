"""Flags that every experiment has, and what follows from them alone.

Importing this module defines them.
"""

import pathlib
from typing import Any

from absl import flags

from experiments import evaluation, place_flags
from experiments.place_flags import DATA_DIR, OUTPUT_DIR
from tff_leak.errors import InputError
from tff_leak.runtime import runtimes

__all__ = ["DATA_DIR", "OUTPUT_DIR", "SEED", "config", "start", "use_runtime"]

# --help shows them as well.
flags.adopt_module_key_flags(place_flags)
SEED = flags.DEFINE_integer("seed", 0, "Of everything random.", lower_bound=0)
_THREADS = flags.DEFINE_integer(
    "threads", None, "Threads of TensorFlow; default: one a core.", lower_bound=1
)
_JUDGES = flags.DEFINE_string(
    "judges",
    None,
    "Folder in which trained judges are kept, for other runs with the same data and "
    "seed; changes no figure. Default: none.",
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
    """Settles TensorFlow's threads and where judges are; to be called first of all.

    Args:
      example: of a run directory, for the error message.

    Returns:
      How many threads there are.

    Raises:
      InputError: if there is no run directory, or the folder of judges cannot be made.
    """
    runtimes.check(_RUNTIME.value, _PRECISION.value)
    threads = runtimes.use_threads(_THREADS.value)
    place_flags.check(example)
    evaluation.keep_judges(_judges_folder(_JUDGES.value))
    return threads


def _judges_folder(text: str | None) -> pathlib.Path | None:
    if not text:
        return None
    folder = pathlib.Path(text).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"--judges is {text}: expected a folder that is there or can be made "
            f"({error.strerror}); name another or leave it out"
        ) from None
    return folder


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
