"""Imports a binary once, and forks it for each command line that is asked for.

    python tools/forking.py experiments.run_client_gan

To start a binary takes seconds, nearly all of them imports. Each line on stdin is JSON
with `flags`, and with the files that `stdout` and `stderr` go to; each line on stdout
is the exit code.

For commands that end before TFF computes anything, such as those with bad input: a
thread that its import starts is not there after a fork. What is registered to run at
the end of a process does not run either.
"""

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from tff_leak.runtime import cli


def main(name: str) -> None:
    """Imports the binary, and answers until stdin ends."""
    binary = importlib.import_module(name)
    for line in sys.stdin:
        command = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(binary.main, [binary.__file__, *command["flags"]], command)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(main: Callable, argv: list[str], command: dict) -> NoReturn:
    """Runs `main` with these arguments and ends the process."""
    code = 1
    try:
        _redirect(os.devnull, os.O_RDONLY, 0)
        # The old one may hold what was read ahead: commands that follow.
        sys.stdin = open(0, encoding="utf-8", closefd=False)
        for number, name in ((1, "stdout"), (2, "stderr")):
            _redirect(command[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, number)
        sys.argv = argv
        cli.run_main(main)
    except SystemExit as error:
        code = _exit_code(error)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _exit_code(error: SystemExit) -> int:
    """As Python has it: None is 0, and what is no number is printed."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code
    print(error.code, file=sys.stderr)
    return 1


def _redirect(path: str, how: int, number: int) -> None:
    opened = os.open(path, how, 0o600)
    os.dup2(opened, number)
    os.close(opened)


if __name__ == "__main__":
    main(sys.argv[1])
