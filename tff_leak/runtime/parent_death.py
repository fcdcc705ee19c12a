"""Becomes another program that dies with its parent. Run as a script.

    python -I -S parent_death.py PARENT_PID PROGRAM [ARGUMENT ...]

`prctl(PR_SET_PDEATHSIG)` must be called in the child, between fork and exec. Doing
that in `subprocess`'s `preexec_fn` runs Python between the two in a process forked
from one with threads (gRPC, TensorFlow), which can deadlock. This script runs after
an exec of its own, and the setting survives the second one.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(parent_pid: int, command: list[str]) -> None:
    """Replaces this process by `command`, to be killed when its parent dies."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent_pid:  # It died before the setting was made.
        sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
