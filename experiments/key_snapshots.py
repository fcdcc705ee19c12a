"""How well attacks on class keys did before the last round, by kept pictures.

A generator's pictures wander from round to round, so that what the last round shows is
luck. As for attacks on classes without keys (`client_gan_curves`) there is so

    late_recovered = `recovered` of the pictures of the last half of the rounds.

Figure 6 of the paper is not of a number of rounds: training stops there once everybody
has 97% on its local data (section 5.4). Runs here go on. What there was at the first
snapshot once everybody has had 97%, on held-out pictures of its own classes and in all
attacks with keys of this size in which that ever is so, is

    stop_recovered, stop_judge_share = those of that snapshot's pictures.

All with floor and reference of the final evaluation. Of an attack without a target
each is that of the class for which it is largest, and so is its control's, by floors
without control and grand mean (`score.common_floor`). The
control's pictures are of the same round.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.client_gan_curves import late_figures, recovered_by_arm
from tff_leak.errors import InputError
from tff_leak.metrics.judge import Judge
from tff_leak.metrics.score import common_floor, recovered
from tff_leak.metrics.similarity import similarity
from tff_leak.runtime import snapshots
from tff_leak.runtime.run_directory import RunDirectory


@dataclasses.dataclass(frozen=True, eq=False)
class Snapshots:
    """What generators drew in the course of a run.

    Attributes:
      taken: of each snapshot, by its round in rising order, pictures `[n, H, W, C]`
        by `<arm>/<adversary>`; of all as many.
      rounds: of the run; the last one has a snapshot.
      foreground: see `similarity`.
      window: see `similarity`.
    """

    taken: Mapping[int, Mapping[str, np.ndarray]]
    rounds: int
    foreground: bool
    window: tuple[int, int] | None

    def late(self) -> list[int]:
        """The snapshots of rounds r with 2 r > `rounds`, the last among them."""
        return [number for number in self.taken if 2 * number > self.rounds]

    def first_from(self, round_num: int) -> int:
        """The first snapshot of this round, at most the last one, or a later one."""
        return min(number for number in self.taken if number >= round_num)

    def images(self, chosen: Sequence[int], arm: str, adversary: int) -> np.ndarray:
        """An adversary's pictures of these snapshots, `[n, H, W, C]`."""
        return np.concatenate(
            [self.taken[number][f"{arm}/{adversary}"] for number in chosen]
        )

    def similarity(self, images: np.ndarray, private: np.ndarray) -> float:
        """Mean SSIM of pictures to their L1-nearest of `private`."""
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
) -> Snapshots:
    """Loads a run's snapshots.

    Raises:
      InputError: if there is none of the last round.
    """
    taken = snapshots.load_snapshots(directory)
    if rounds not in taken:
        raise InputError(
            f"{directory.program_state}: no snapshot of round {rounds}: expected that "
            "of the last round at least; delete the run directory and run the "
            "experiment again"
        )
    return Snapshots(taken, rounds, foreground, window)


def late_of_target(
    figures: Mapping[str, Any],
    private: np.ndarray,
    arms: Mapping[str, str],
    adversary: int,
    kept: Snapshots,
) -> dict[str, Any]:
    """Returns a target's `late_ssim` and `late_recovered`, by what is in `arms`.

    Args:
      figures: of the final evaluation of this target.
      private: the victim's pictures of it, `[n, H, W, C]`.
      arms: names of the runs behind `attack`, and `control` where there is one.
      adversary: whose pictures.
      kept: the run's.
    """
    ssim = {
        name: kept.similarity(kept.images(kept.late(), arm, adversary), private)
        for name, arm in arms.items()
    }
    return late_figures(figures, ssim)


def stop_of_target(
    figures: Mapping[str, Any],
    private: np.ndarray,
    arms: Mapping[str, str],
    adversary: int,
    kept: Snapshots,
    *,
    judge: Judge,
    round_num: int | None,
) -> dict[str, dict[str, float | None]]:
    """Returns a target's `stop_ssim`, `stop_judge_share` and `stop_recovered`.

    Args:
      figures, private, arms, adversary, kept: as for `late_of_target`.
      judge: of the run.
      round_num: of the snapshot; None: not everybody was trained in any round.

    Returns:
      Each by what is in `arms`; empty without that round.
    """
    ssim, share = {}, {}
    for name, arm in arms.items() if round_num is not None else ():
        images = kept.images([round_num], arm, adversary)
        ssim[name] = kept.similarity(images, private)
        # The last answer is that it shows none of the classes.
        answers = judge.all_probabilities(judge.features(images)).argmax(axis=1)
        share[name] = float(np.mean(answers == figures["target"]))
    return _stop(figures, ssim, share)


def pooled(
    figures: Mapping[str, Any], targets: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Returns the late figures, and those at the stop, of all targets together.

    Args:
      figures: the pooled ones of the final evaluation.
      targets: with their own of both.
    """

    def mean_of(name):
        return {
            arm: float(np.mean([one[name][arm] for one in targets]))
            for arm in targets[0][name]
        }

    late = late_figures(figures, mean_of("late_ssim"))
    return late | _stop(figures, mean_of("stop_ssim"), mean_of("stop_judge_share"))


def largest(targets: Iterable[Mapping[str, Any]], name: str) -> dict[str, float | None]:
    """Returns the largest figures of several classes, by their common floors.

    Args:
      targets: with the figures of `late_of_target` and `stop_of_target`.
      name: `attack` or `control`.

    Returns:
      `late_recovered`, `stop_recovered` and `stop_judge_share`, each of the class for
      which it is largest; None where it is defined for none.
    """
    targets = list(targets)

    def recovered_in(figure):
        return _largest(
            recovered(
                one[figure][name], common_floor(one["floor"]), one["reference"]["ssim"]
            )
            for one in targets
            if name in one[figure]
        )

    shares = (one["stop_judge_share"].get(name) for one in targets)
    return {
        "late_recovered": recovered_in("late_ssim"),
        "stop_recovered": recovered_in("stop_ssim"),
        "stop_judge_share": _largest(shares),
    }


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _stop(
    figures: Mapping[str, Any],
    ssim: Mapping[str, float],
    share: Mapping[str, float],
) -> dict[str, dict[str, float | None]]:
    return {
        "stop_ssim": dict(ssim),
        "stop_judge_share": dict(share),
        "stop_recovered": recovered_by_arm(figures, ssim),
    }
