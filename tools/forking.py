"""Imports what binaries need once, and forks for each command line that is asked for.

    python tools/forking.py tensorflow_federated experiments.client_gan_program

To start a binary takes seconds, nearly all of them imports: of the modules named here.
Each line on stdin is JSON with the `module` to run as `python -m` does, its `flags`,
and the files that `stdout` and `stderr` go to; each line on stdout is the exit code.

For commands that end before TFF computes anything, such as those with bad input: a
thread that an import starts is not there after a fork. What is registered to run at
the end of a process does not run either. A module that defines flags is not to be
imported before: they would be every binary's.
"""

import importlib
import json
import os
import runpy
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn


def main(names: Sequence[str]) -> None:
    """Imports the modules, and answers until stdin ends."""
    for name in names:
        importlib.import_module(name)
    for line in sys.stdin:
        command = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(command)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(command: dict) -> NoReturn:
    """Runs the command's module and ends the process."""
    code = 1
    try:
        _redirect(os.devnull, os.O_RDONLY, 0)
        # The old one may hold what was read ahead: commands that follow.
        sys.stdin = open(0, encoding="utf-8", closefd=False)
        for number, name in ((1, "stdout"), (2, "stderr")):
            _redirect(command[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, number)
        sys.argv = [command["module"], *command["flags"]]
        runpy.run_module(command["module"], run_name="__main__", alter_sys=True)
        code = 0
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
    main(sys.argv[1:])
