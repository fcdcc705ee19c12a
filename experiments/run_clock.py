"""How long a run took, also when its command is repeated."""

import contextlib
import json
import time

from tff_leak.runtime.run_directory import RunDirectory


class RunClock:
    """Seconds of one undisturbed run; unknown for one that was interrupted."""

    def __init__(self, directory: RunDirectory, started: float):
        """Looks at what an earlier command left; to be made before the run goes on.

        Args:
          directory: the run's.
          started: `time.monotonic()` at the start of this command.
        """
        self._started = started
        self._resumed = directory.metrics_csv.exists()
        self._before = None
        if directory.summary.exists():
            # A damaged one is written anew, and nobody knows how long the run took.
            with contextlib.suppress(ValueError, AttributeError):
                summary = json.loads(directory.summary.read_text(encoding="utf-8"))
                self._before = summary.get("seconds")

    def seconds(self) -> float | None:
        """Seconds since the start; those of the first time for a finished run."""
        if self._resumed:
            return self._before
        return round(time.monotonic() - self._started, 1)
