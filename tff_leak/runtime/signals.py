"""SIGTERM as an orderly end."""

import contextlib
import signal
import threading
from collections.abc import Iterator

TERMINATED = 128 + signal.SIGTERM  # The shell's convention: 143.


@contextlib.contextmanager
def ends_cleanly() -> Iterator[None]:
    """Turns SIGTERM into `SystemExit(143)` inside the block.

    By default SIGTERM ends Python without running a single `finally` block. Inside
    this block the first SIGTERM raises `SystemExit(143)` in the main thread; later
    ones are ignored, so that they cannot interrupt the cleaning up. The earlier
    handler is back in place afterwards.

    Raises:
      RuntimeError: if called outside the main thread, where Python cannot set
        signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("ends_cleanly() can only be used in the main thread.")

    def leave(signum, frame):
        del signum, frame
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(TERMINATED)

    previous = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous or signal.SIG_DFL)
