"""Flags that say where files lie.

Importing this module defines them.
"""

from absl import flags

from tff_leak.errors import InputError

OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Run directory: made, or gone on with."
)
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "TFDS data directory; default: TFDS_DATA_DIR, then TFDS's own."
)


def check(example: str) -> None:
    """Raises InputError if there is no run directory.

    Args:
      example: of one, for the message.
    """
    if not OUTPUT_DIR.value:
        raise InputError(
            "--output_dir is missing: expected a directory for the run; for example "
            f"--output_dir={example}"
        )
