"""What a finished run leaked, in the figures that cells of a matrix compare.

Floor and reference of `recovered` are those of the run without a defence, of the same
attack and seed: both have the same victim and held-out images (and judge, but for class
keys). A defended run's own floor has no control in it, and one that a defence spoilt
would flatter it.

Where there is no such scale a control is taken off: an adversary with a guessed key
shows the best of several classes, and so does its control, which then is the floor (or
0, where it is below: both are by `score.common_floor`). A
server's GAN is measured by margins (how much nearer to the victim's own kind), of which
a blot has about none and a plain picture of others' a negative one; so its floor is the
largest of 0 and the margins of the control under the same defence and of pictures asked
for as others'. One that succeeded for
no class leaks nothing, whatever its margins are.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tff_leak.metrics.score import confidence_interval, recovered


@dataclasses.dataclass(frozen=True)
class Scale:
    """What `recovered` is computed from, in SSIM to the victim's images.

    Attributes:
      attack: of the reconstructions.
      floor: what needs no leak.
      reference: of real held-out images, or what else counts as having all.
      window: leading rows and columns that were compared; None for all.
    """

    attack: float
    floor: float
    reference: float
    window: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True)
class Figures:
    """One run's.

    Attributes:
      leakage: `recovered` by its own floor, or the advantage; None: not defined.
      task_accuracy: of the shared model, in [0, 1].
      epsilon: spent; "infinity", or None without differential privacy.
      seconds: of the run; None if it was interrupted.
      scale: None where leakage is no similarity to one victim's images of one class:
        it then stands by itself.
      control: leakage of the run's control, where that is no part of a floor.
      judge_share: of reconstructions that the judge takes for the target; None without
        pictures.
      reached: whether all targets were; None where it is not defined.
      identified: share of the pictures of an attack on updates that are nearest to the
        victims' own, and identified_control: the control's; None of other attacks.
      late_ssim: as `scale.attack`, mean of the last half of the rounds; None where
        nothing was looked at over the rounds.
    """

    leakage: float | None
    task_accuracy: float
    epsilon: float | str | None
    seconds: float | None
    scale: Scale | None = None
    control: float | None = None
    judge_share: float | None = None
    reached: bool | None = None
    late_ssim: float | None = None
    identified: float | None = None
    identified_control: float | None = None


def read(summary: Mapping[str, Any]) -> Figures:
    """Returns the figures of a run's `summary.json`."""
    if "headline" in summary:
        return _of_headline(summary)
    experiments = {
        "client_gan": _of_client_gan,
        "key_protected": _of_key_protected,
        "server_gan": _of_server_gan,
    }
    return experiments[summary["experiment"]](summary)


def leakage(run: Figures, undefended: Figures | None) -> float | None:
    """Returns a run's leakage on the undefended run's scale; None: not defined.

    Args:
      run: with or without a defence.
      undefended: of the same attack and seed; None if it failed.
    """
    if run.scale is None:
        return run.leakage
    return _recovered(run.scale.attack, run.scale, undefended)


def late_leakage(run: Figures, undefended: Figures | None) -> float | None:
    """Returns the same for the mean of the last half of the rounds, which is steadier.

    Floor and reference are those of `leakage`: of the undefended run's end.
    """
    if run.scale is None or run.late_ssim is None:
        return None
    return _recovered(run.late_ssim, run.scale, undefended)


def _recovered(ssim: float, own: Scale, undefended: Figures | None) -> float | None:
    scale = undefended.scale if undefended else None
    if scale is None or own.window != scale.window:
        return None  # Nothing to compare with, or other pixels.
    return recovered(ssim, scale.floor, scale.reference)


def over_seeds(values: Sequence[float | None]) -> dict[str, Any]:
    """Returns the mean of one figure over seeds, its 95% interval, and their number.

    The mean is None where one seed's is not defined, or there is none; the interval
    also with fewer than two.
    """
    known = [value for value in values if value is not None]
    whole = bool(values) and len(known) == len(values)
    interval = confidence_interval(known) if whole else None
    return {
        "mean": sum(known) / len(known) if whole else None,
        "interval": list(interval) if interval else None,
        "seeds": len(values),
    }


def _of_client_gan(summary: Mapping[str, Any]) -> Figures:
    figures = _pooled(summary["pooled"], summary)
    if summary.get("generator_steps", {}).get("attack") == 0:
        # The model never was good enough for it to begin: that is no defence.
        figures |= {"leakage": None, "scale": None, "reached": None}
    return Figures(
        task_accuracy=summary["task_accuracy"]["attack"],
        epsilon=summary["epsilon"],
        seconds=summary["seconds"],
        # Runs of before it was measured have none.
        late_ssim=summary["pooled"].get("late_ssim", {}).get("attack"),
        **figures,
    )


def _of_key_protected(summary: Mapping[str, Any]) -> Figures:
    """Of a run with one guess of one key size."""
    [attack] = summary["attacks"]
    figures = _pooled(attack["pooled"], summary)
    if attack["largest"] is not None:
        # Without a target what counts is the class that the pictures show best.
        shown, control = attack["largest"]["attack"], attack["largest"]["control"]
        figures |= {
            "leakage": _above(shown["recovered"], control and control["recovered"]),
            "scale": None,
            "control": control["recovered"] if control else None,
            "judge_share": shown["judge_share_largest"],
        }
    return Figures(
        # Fakes are a class, as without keys; runs of before it was measured have none.
        task_accuracy=attack.get("task_accuracy_with_fakes", attack["task_accuracy"]),
        epsilon=None,
        seconds=summary["seconds"],
        **figures,
    )


def _above(value: float | None, control: float | None) -> float | None:
    """`recovered` with the control as its floor, too; None without a control."""
    if value is None or control is None:
        return None
    floor = max(control, 0.0)
    return (value - floor) / (1.0 - floor) if floor < 1.0 else None


def _of_server_gan(summary: Mapping[str, Any]) -> Figures:
    """`recovered` of margins: how much nearer the victim's own kind of pictures is."""
    pooled = summary["pooled"]
    # A budget ended the run before the attack; runs from before it was noted have none.
    never = summary.get("rounds_attacked") == 0
    return Figures(
        leakage=None
        if never
        else (pooled["recovered"] if pooled["succeeded"] else 0.0),
        reached=pooled["succeeded"] == 1.0,
        task_accuracy=summary["task_accuracy"]["attack"],
        epsilon=summary.get("epsilon"),  # Runs from before there were defences: none.
        seconds=summary["seconds"],
        judge_share=pooled["sets"]["victim"]["judge_share"],
    )


def _of_headline(summary: Mapping[str, Any]) -> Figures:
    """Of an attack on updates, which wants the very images, of SSIM 1 to themselves."""
    headline = summary["headline"]
    figures: dict[str, Any] = {}
    if "pooled" in summary:
        figures = _pooled(summary["pooled"], summary)
        figures["scale"] = dataclasses.replace(figures["scale"], reference=1.0)
        figures["identified"] = summary["identified"]["attack"]
        figures["identified_control"] = summary["identified"]["control"]
    if "membership" in summary:
        figures["control"] = summary["membership"]["held_out"]["advantage"]
    figures |= {
        "leakage": headline["value"],
        "task_accuracy": headline["task_accuracy"],
        # With the word for an infinite one.
        "epsilon": summary["epsilon"],
        "seconds": headline["seconds"],
    }
    return Figures(**figures)


def _pooled(pooled: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """What `evaluate_targets` says of all targets together."""
    window = summary.get("visible_window")
    return {
        "leakage": pooled["recovered"],
        "scale": Scale(
            pooled["attack"]["ssim"],
            pooled["floor"]["value"],
            pooled["reference"]["ssim"],
            tuple(window) if window else None,
        ),
        "judge_share": pooled["attack"]["judge_share"],
        "reached": pooled.get("reached_all"),  # Not of attacks on updates.
    }
