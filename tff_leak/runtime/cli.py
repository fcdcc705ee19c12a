"""The frame of a binary: flags, one-line errors, exit codes.

The one module of the library that knows flags and prints. It imports neither
TensorFlow nor numpy itself.
"""

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

# The library has no flags; this frame is for the programs that do.
from absl import app, flags, logging  # noqa: TID251

from tff_leak.errors import InputError
from tff_leak.runtime import signals

OK = 0
BAD_INPUT = 2
INTERRUPTED = 130


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses the flags; raises `InputError` for whatever cannot be parsed."""
    try:
        rest = flags.FLAGS(list(argv))
    except flags.Error as error:
        raise InputError(
            f"{_one_line(str(error))} (--help lists the flags and their values)"
        ) from None
    except SystemExit:
        # Only absl's help flags exit while parsing, with 1. Help is no failure.
        raise SystemExit(OK) from None
    if len(rest) > 1:
        raise InputError(
            f"argument {rest[1]!r}: expected flags only; write it as --name=value "
            "(--help lists the flags)"
        )
    if flags.FLAGS["verbosity"].using_default_value:
        # absl.app would raise it to INFO, at which TFF reports every file it writes.
        flags.FLAGS.verbosity = logging.WARNING
    return rest


def run_main(main: Callable[[list[str]], int | None]) -> NoReturn:
    """Runs a binary's `main` and ends the process.

    Exit codes and what is printed on stderr:
      what `main` returns (None counts as 0);
      2: `InputError`, or flags that cannot be parsed; one line `error: ...`;
      130: Ctrl-C; one line;
      143: SIGTERM; `finally` blocks have run;
      1: any other exception, which is a bug and keeps its traceback.

    Args:
      main: called with the arguments left after flag parsing, as by `absl.app`:
        the program's name and nothing else.
    """
    try:
        with signals.ends_cleanly():
            app.run(main, flags_parser=_parse_flags)
    except InputError as error:
        sys.stderr.write(f"error: {_one_line(str(error))}\n")
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(INTERRUPTED)
    sys.exit(OK)
