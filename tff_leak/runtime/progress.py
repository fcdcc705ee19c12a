"""A progress bar of rounds, or of what else is counted."""

import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

import tqdm


class Progress:
    """Rounds done, rate, time left and two metrics, on stderr.

    Silent when the stream is not a terminal, so that logs stay readable.

    Usage:
        with Progress(rounds, "hitaj") as progress:
            await program.run(..., progress=progress)
    """

    def __init__(
        self,
        total: int,
        title: str,
        enabled: bool | None = None,
        *,
        shown: Sequence[str] = ("task_accuracy", "attack_loss"),
        unit: str = "round",
        stream: TextIO | None = None,
    ):
        """Makes a bar; nothing is drawn before `start` or `update`.

        Args:
          total: the number of rounds.
          title: stands to the left of the bar.
          enabled: True draws always, False never, None if `stream` is a terminal.
          shown: metrics to show, named without their arm. Of several arms that
            report one, the first is shown.
          unit: what is counted.
          stream: where to draw; None means stderr.
        """
        self._total = total
        self._title = title
        self._shown = tuple(shown)
        self._unit = unit
        self._stream = sys.stderr if stream is None else stream
        self._enabled = self._stream.isatty() if enabled is None else enabled
        self._bar: tqdm.tqdm | None = None

    def start(self, done: int = 0) -> None:
        """Draws the bar with `done` rounds behind it; they do not count as speed."""
        if self._enabled and self._bar is None:
            self._bar = tqdm.tqdm(
                total=self._total,
                desc=self._title,
                initial=done,
                unit=self._unit,
                file=self._stream,
                dynamic_ncols=True,
                smoothing=0.1,
            )

    def update(self, round_num: int, metrics: Mapping[str, float]) -> None:
        """Moves the bar to `round_num`, the number of rounds now complete.

        Args:
          round_num: from 1.
          metrics: by `<arm>/<metric>` or `<metric>`; an int is shown as a count.
        """
        self.start(round_num - 1)
        if self._bar is None:
            return
        self._bar.set_postfix(self._postfix(metrics), refresh=False)
        self._bar.update(round_num - self._bar.n)

    def close(self) -> None:
        """Leaves the bar as it stands and ends its line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
            self._enabled = False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _postfix(self, metrics: Mapping[str, float]) -> dict[str, str]:
        postfix = {}
        for wanted in self._shown:
            for name, value in metrics.items():
                if name.rpartition("/")[2] == wanted:
                    text = str(value) if isinstance(value, int) else f"{value:.3f}"
                    postfix[wanted.replace("_", " ")] = text
                    break
        return postfix
