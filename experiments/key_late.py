"""How well attacks on class keys did in the later half of the rounds.

A generator's pictures wander from round to round, so that what the last round shows is
luck. As for attacks on classes without keys (`client_gan_curves`) there is so

    late_recovered = `recovered` of the later snapshots' pictures

with floor and reference of the final evaluation. Of an attack without a target it is
that of the class for which it is largest, and so is its control's.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tff_leak.errors import InputError
from tff_leak.metrics.score import recovered
from tff_leak.metrics.similarity import similarity
from tff_leak.runtime import snapshots
from tff_leak.runtime.run_directory import RunDirectory

_FLOOR = ("blank", "other_class_means", "other_class_images")


@dataclasses.dataclass(frozen=True, eq=False)
class LateSnapshots:
    """What generators drew in the snapshots behind half of the rounds.

    Attributes:
      taken: of each snapshot pictures `[n, H, W, C]` by `<arm>/<adversary>`; of all
        as many.
      foreground: see `similarity`.
      window: see `similarity`.
    """

    taken: Sequence[Mapping[str, np.ndarray]]
    foreground: bool
    window: tuple[int, int] | None

    def similarity(self, arm: str, adversary: int, private: np.ndarray) -> float:
        """Mean SSIM of an adversary's pictures to their L1-nearest of `private`."""
        images = np.concatenate([one[f"{arm}/{adversary}"] for one in self.taken])
        found = similarity(
            images, private, foreground=self.foreground, window=self.window
        )
        return float(found.ssim.mean())


def load(
    directory: RunDirectory,
    rounds: int,
    *,
    foreground: bool,
    window: tuple[int, int] | None,
) -> LateSnapshots:
    """Loads a run's snapshots of rounds r with 2 r > `rounds`, the last among them.

    Raises:
      InputError: if there is none.
    """
    taken = snapshots.load_snapshots(directory)
    late = [arrays for number, arrays in taken.items() if 2 * number > rounds]
    if not late:
        raise InputError(
            f"{directory.program_state}: no snapshot of a round behind half of "
            f"{rounds}: expected that of the last at least; delete the run directory "
            "and run the experiment again"
        )
    return LateSnapshots(late, foreground, window)


def floor_without_control(figures: Mapping[str, Any]) -> float:
    """Returns the largest candidate for a floor that needs no control run.

    Where the control is measured against the same floor as the attack: in its own
    floor it would count for itself.
    """
    known = [figures["floor"][name] for name in _FLOOR]
    return max(value for value in known if value is not None)


def largest(targets: Iterable[Mapping[str, Any]], name: str) -> float | None:
    """Returns the largest `late_recovered` of several classes, without the control.

    Args:
      targets: with the figures of `client_gan_curves.late_figures`.
      name: `attack` or `control`.
    """
    found = [
        recovered(
            one["late_ssim"][name],
            floor_without_control(one),
            one["reference"]["ssim"],
        )
        for one in targets
    ]
    return max((value for value in found if value is not None), default=None)
