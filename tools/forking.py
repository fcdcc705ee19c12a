"""Imports a binary once, and forks it for each command line that is asked for.

    python tools/forking.py experiments.run_client_gan

To start a binary takes seconds, nearly all of them imports. Each line on stdin is JSON
with `flags`, and with the files that `stdout` and `stderr` go to; each line on stdout
is the exit code. Before the fork nothing but imports has happened, so that a command
does what it does when it is started by itself.
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
        for number, name in ((1, "stdout"), (2, "stderr")):
            _redirect(command[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, number)
        sys.argv = argv
        cli.run_main(main)
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect(path: str, how: int, number: int) -> None:
    opened = os.open(path, how, 0o600)
    os.dup2(opened, number)
    os.close(opened)


if __name__ == "__main__":
    main(sys.argv[1])
