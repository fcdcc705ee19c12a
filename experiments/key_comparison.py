"""Attacks on class keys side by side: tables for the report, and curves."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tff_leak.report import figures, html
from tff_leak.report.key_tables import (
    before_the_end,
    has_common_scale,
    on_common_scale,
)
from tff_leak.runtime.run_directory import RunDirectory

_SHOWN_TEXT = (
    "Known: the adversary has the target's key (the positive control). A number is the "
    "distance of its guess from that key. Best, ascent, embeddings, drift, weights and "
    "moments are searches with their effort a turn.\n\n"
    "Without the target's key an adversary has no target: its pictures count for "
    "whichever class of the honest participants they show best, and so do the "
    "control's, in which nobody honest holds a class. Where everybody attacks, the "
    "classes of all others count, and in the control of one it alone attacks and has "
    "data. What each shows best need not be the same class. Both are on the common "
    "scale, by the floor of the class in question without the control and the mean of "
    "all other classes: what counts is how far apart they are. Attacks with a target "
    "beside them have that figure as well as the one by their own floor. "
    "Reached are then so many of all pairs of an adversary and a class that it does "
    "not hold, of honest participants (of others).\n\n"
    "Judge share, any class: of the class that the judge names most among all that the "
    "adversary does not hold itself (the class); in the control the same, of whichever "
    "class that is. Of other adversaries' classes there is no control as long as "
    "somebody is honest: these keep theirs in the control."
)

_COURSE_TEXT = (
    "What a generator shows wanders from round to round. Last half: of the pictures "
    "that were kept in it, 40 of each adversary a time (figures of the end are of 200 "
    "others). First round "
    "with all trained: that after which everybody has 97% on held-out pictures of its "
    "own classes; a later one may have less. Figure 6 of the paper stops there (97% on "
    "local data). All just trained: of the first pictures that were kept once this was "
    "so in all attacks with keys of this size in which it ever is, so that they can be "
    "compared: that may be many rounds after it was so in one of them."
)

# Those of searches are of the class that is shown best.
_FLOORS = {"distance": "floor", "effort": "common floor"}

_KEYS_TEXT = (
    "Product with nearest key: of the first shown adversary's key with the nearest "
    "class key of honest participants (of others, where everybody attacks); with the "
    "next one: the largest with any other key; another attacker's: with the nearest "
    "class key of another adversary (its class). The generator rests in turns in "
    "which the model believes its pictures, so that attacks differ in steps. Accuracy "
    "is that of the shared model at the end, by the nearest of all class keys; fakes' "
    "as well: with the adversaries' keys for fakes among the answers, which real "
    "pictures of a target are given where the attack works."
)


def pictures_compared(
    attacks: Sequence[Mapping[str, Any]], directory: RunDirectory
) -> html.Section:
    """What attacks show at the end, and curves of it, saved in `figures`, too.

    Args:
      attacks: as in `summary.json`.
      directory: of the run.
    """
    return html.Section(
        "Guesses compared",
        _SHOWN_TEXT,
        figures=_curves(attacks, directory),
        tables=[_table("What the pictures show", attacks, _for_all(_shown, attacks))],
    )


def rounds_compared(attacks: Sequence[Mapping[str, Any]]) -> html.Section:
    """What attacks, as in `summary.json`, showed before the last round."""
    row = _for_all(_course, attacks)
    tables = [_table("In the course of the rounds", attacks, row)]
    return html.Section("Before the last round", _COURSE_TEXT, tables=tables)


def keys_compared(attacks: Sequence[Mapping[str, Any]]) -> html.Section:
    """How near the keys of attacks, as in `summary.json`, come to others' keys."""
    tables = [_table("Beside the pictures", attacks, _circumstances)]
    return html.Section("Keys, accuracy and effort", _KEYS_TEXT, tables=tables)


def title(attack: Mapping[str, Any]) -> str:
    """An attack's name: its guess, and the keys' length."""
    guess, near = attack["guess"], attack["distance"] is not None
    return f"{'distance ' if near else ''}{guess}, d = {attack['dimension']}"


def reached(attack: Mapping[str, Any]) -> tuple[int, int]:
    """How many were reached of how many: targets, or pairs of adversary and class."""
    if attack["largest"]:
        best = attack["largest"]["attack"]
        return best["reached_pairs"], best["pairs"]
    return attack["pooled"]["reached_count"], len(attack["pooled"]["targets"])


def _table(
    caption: str,
    attacks: Sequence[Mapping[str, Any]],
    row: Callable[[Mapping[str, Any]], dict[str, object]],
) -> tuple[str, list[str], list[list[object]]]:
    """A row an attack, of whatever `row` says of it by column."""
    rows = [{"attack": title(attack)} | row(attack) for attack in attacks]
    columns = list(dict.fromkeys(name for one in rows for name in one))
    return caption, columns, [[one.get(name, "") for name in columns] for one in rows]


def _for_all(
    row: Callable[..., dict[str, object]], attacks: Sequence[Mapping[str, Any]]
) -> Callable[[Mapping[str, Any]], dict[str, object]]:
    """`row` with columns on the common scale if there is one."""
    return functools.partial(row, common_scale=has_common_scale(attacks))


def _shown(attack: Mapping[str, Any], *, common_scale: bool) -> dict[str, object]:
    pooled, largest = attack["pooled"], attack["largest"]
    row = {
        "class": ", ".join(str(one["target"]) for one in attack["targets"]),
        "recovered": pooled["recovered"],
        "reached": "{} of {}".format(*reached(attack)),
        "judge share": pooled["attack"]["judge_share"],
        "control's judge share": _of_control(pooled["control"], "judge_share"),
    }
    if largest:
        row |= {
            "recovered, common scale": largest["attack"]["recovered"],
            "control's, common scale": _of_control(largest["control"], "recovered"),
            "judge share, any class": _elsewhere(attack),
        }
    elif common_scale:
        for owner, name in (("recovered", "attack"), ("control's", "control")):
            figures_of = pooled[name]
            row[f"{owner}, common scale"] = (
                on_common_scale(pooled, figures_of["ssim"]) if figures_of else "not run"
            )
    people = (attack["identity"] or {}).get("pooled")
    if people:
        control = people["control"]
        row["right person nearest"] = people["attack"]
        row["control's right person"] = "not run" if control is None else control
    return row


def _course(attack: Mapping[str, Any], *, common_scale: bool) -> dict[str, object]:
    def figure(key, name):
        return before_the_end(
            attack, attack["pooled"], key, name, common_scale=common_scale
        )

    return {
        **figure("late_recovered", "recovered, last half"),
        "first round with all trained": attack["trained_round"] or "not yet",
        **_locally_trained(attack),
        "all just trained: pictures of round": attack["stop_round"] or "not yet",
        **figure("stop_recovered", "recovered, all just trained"),
        **figure("stop_judge_share", "judge share, all just trained"),
    }


def _locally_trained(attack: Mapping[str, Any]) -> dict[str, object]:
    if "locally_trained_round" not in attack:  # Of a run with older metrics.
        return {}
    found = attack["locally_trained_round"] or "not yet"
    return {"first round with all at 97% on local data": found}


def _circumstances(attack: Mapping[str, Any]) -> dict[str, object]:
    shown = attack["targets"][0]["adversary"]
    [near] = [one for one in attack["overlap"] if one["adversary"] == shown]
    steps = attack["control_generator_steps"]
    fellow = near["fellow"]
    return {
        "product with nearest key": near["product"],
        "with the next one": near["rival"],
        "another attacker's": (
            "{product:.2f} ({class})".format(**fellow) if fellow else ""
        ),
        "accuracy, all class keys": attack["task_accuracy"],
        "fakes' as well": attack["task_accuracy_with_fakes"],
        "accuracy, own keys": attack["own_accuracy"],
        "generator's steps a turn": attack["generator_steps"],
        "control's steps": "not run" if steps is None else steps,
    }


def _of_control(figures_of: Mapping[str, Any] | None, name: str) -> object:
    return figures_of[name] if figures_of else "not run"


def _elsewhere(attack: Mapping[str, Any]) -> str:
    found, control = attack["elsewhere"]["attack"], attack["elsewhere"]["control"]
    if not found:
        return ""
    alone = "not run"
    if control:
        alone = f"{control['judge_share']:.2f} ({control['class']})"
    return f"{found['judge_share']:.2f} ({found['class']}); in the control {alone}"


def _curves(
    attacks: Sequence[Mapping[str, Any]], directory: RunDirectory
) -> list[tuple[str, bytes]]:
    """Recovered over the distance of guesses and over the effort of searches."""
    pictures = []
    axes = {
        "distance": "distance of the guess",
        "effort": "effort, all turns of a search together",
    }
    for key, axis in axes.items():
        series = _recovered_over(attacks, key)
        if series:
            drawn = figures.curves(
                series,
                "recovered",
                xlabel=axis,
                levels={_FLOORS[key]: 0.0, "real pictures": 1.0},
                few=True,
                logarithmic=key == "effort",
            )
            picture = figures.save(drawn, directory.figures / f"recovered_{key}.png")
            pictures.append((f"recovered over the {axis}", picture))
    return pictures


def _recovered_over(
    attacks: Sequence[Mapping[str, Any]], key: str
) -> dict[str, tuple[list[float], list[float | None]]]:
    """Recovered by distance or effort, a series a dimension (and method).

    What is best of several classes has its control beside it.
    """
    series: dict[str, list[tuple[float, float | None]]] = {}
    for attack in attacks:
        if attack[key] is None:
            continue
        largest = attack["largest"]
        found = largest["attack"] if largest else attack["pooled"]
        method = f"{attack['guess'].partition(':')[0]}, " if key == "effort" else ""
        name = f"{method}d = {attack['dimension']}"
        series.setdefault(name, []).append((attack[key], found["recovered"]))
        if largest and largest["control"]:
            of_control = largest["control"]["recovered"]
            series.setdefault(f"{name}, control", []).append((attack[key], of_control))
    return {
        name: tuple(map(list, zip(*sorted(points, key=lambda p: p[0]), strict=True)))
        for name, points in series.items()
    }
